//! Several libraries with ggml's names in one process: one is listened to, and no call of the others goes astray.

use integration_tests::World;

const FIRST: [&str; 2] = ["libggml-like.so", "libggml-now.so"];
const SECOND: [&str; 2] = ["libggml-second.so", "libggml-second-now.so"];

#[test]
fn every_ggml_in_the_process_keeps_its_calls() {
    for hooked in [false, true] {
        for first in FIRST {
            for second in SECOND {
                for close in [&[][..], &["close"]] {
                    let world = if hooked { World::new().hooked() } else { World::new() };
                    let outcome = world.run_with("two-ggmls", &[&[first, second], close].concat()).ok();
                    assert_eq!(outcome.stdout, "each its own\n", "{first} {second} {close:?}\n{}", outcome.report());
                }
            }
        }
    }
}
