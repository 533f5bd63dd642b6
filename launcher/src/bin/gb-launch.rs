//! `gb-launch COMMAND ARGS...`: runs a program with GreenBoost.

use greenboost_launcher::{launch, output};
use std::process::ExitCode;

const NAME: &str = "gb-launch";

fn main() -> ExitCode {
    let options = match output::options::<launch::Options>(NAME) {
        Ok(options) => options,
        Err(code) => return code,
    };
    match launch::run(&options) {
        // Only --dry-run comes back without a refusal: otherwise this process has become the command.
        Ok(()) => output::end(NAME, ExitCode::SUCCESS),
        Err(refusal) => {
            output::complain(NAME, &refusal);
            ExitCode::from(refusal.code)
        }
    }
}
