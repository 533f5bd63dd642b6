//! How a plan for a model is asked for: by gb-launch before it becomes the command, and by the hook in a llama-server
//! that Ollama started.
//!
//! Planning reads a file that may be broken or on a disk that is gone, and asks a driver that may hang. So it happens in a
//! process of its own (`greenboost answer`), with a time limit, and whoever asks goes on without it when nothing comes back.
//! The answer is text: the plan in one line, a line `NAME=VALUE` for each variable, and `end`, without which it is
//! not believed; [`crate::planned`] says which variables are.

use crate::Settings;
use crate::choices::Spill;
use crate::escape::escaped;
use crate::kernel::AccessMode;
use crate::planned::is_allowed;
use crate::settings::{DISABLE, EXPERTS, HOST_COPY_PREFETCH, STREAM};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The last line of a whole answer.
const END: &str = "end";
/// llama-server's options for its model: a command without one is never planned for.
pub const MODEL_OPTIONS: [&str; 2] = ["-m", "--model"];
/// Why there is no plan where the staging slots would take all VRAM: that is an error, not merely a missing plan.
pub const RING_IS_NO_PART: &str = "--ring has to be less than the VRAM that it is a part of";
/// Far more than an answer has.
const MOST: usize = 64 << 10;
/// How long a killed planner may take to go; one that is stuck in the kernel never does.
const GRACE: Duration = Duration::from_secs(1);

/// What a planner says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The plan in one line, or why there is none.
    pub line: String,
    /// Variables to set; the user has set none of them.
    pub variables: Vec<(String, String)>,
}

impl Answer {
    /// No plan, and why: all of a message, on one line.
    pub fn none(why: &str) -> Self {
        Self { line: format!("none: {}", one_line(why)), variables: Vec::new() }
    }

    /// Why there is no plan, where there is none.
    pub fn no_plan(&self) -> Option<&str> {
        self.line.strip_prefix("none: ")
    }

    /// As [`Answer::from_text`] reads it.
    pub fn to_text(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={}\n", one_line(value)));
        format!("{}\n{}{END}\n", escaped(&one_line(&self.line)), variables.collect::<String>())
    }

    /// The answer, if that is what the text is, and all of it.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.lines();
        let line = lines.next()?.to_owned();
        if lines.next_back()? != END {
            return None;
        }
        let variable = |line: &str| {
            let (name, value) = line.split_once('=')?;
            is_allowed(name, value).then(|| (name.to_owned(), value.to_owned()))
        };
        Some(Self { line, variables: lines.map(variable).collect::<Option<_>>()? })
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r', '\0']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What a planner is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The program that plans.
    pub planner: &'a Path,
    /// The budgets, and what the user has fixed.
    pub settings: &'a Settings,
    /// Whether there is time to measure this machine, where that has not been done.
    pub measure: bool,
    /// llama-server's arguments, without its name.
    pub arguments: &'a [OsString],
}

impl Question<'_> {
    /// The command that asks; it looks at its environment for what the user has set of llama.cpp's variables.
    pub fn command(&self) -> Command {
        let Self { settings, .. } = self;
        let mut command = Command::new(self.planner);
        command.args(["answer", "--here"]);
        for (option, bytes) in [("--vram", settings.vram), ("--ram", settings.ram), ("--ring", settings.ring)] {
            command.args(bytes.map(|bytes| format!("{option}={bytes}")));
        }
        if settings.vram.is_none() {
            command.arg(format!("--vram-reserve={}", settings.vram_reserve));
        }
        for (option, variable, word) in [
            ("--stream", STREAM, settings.stream.name()),
            ("--host-copy-prefetch", HOST_COPY_PREFETCH, settings.host_copy_prefetch.name()),
            ("--experts", EXPERTS, settings.experts.name()),
        ] {
            command.args(settings.is_fixed(variable).then(|| format!("{option}={word}")));
        }
        // Copies of experts are of use only to kernels that a rule knows.
        let has_rules = settings.kernels.iter().any(|rule| rule.read == AccessMode::Experts);
        command.args((!has_rules).then_some("--no-expert-rules"));
        command.args(settings.strategy.map(|strategy| format!("--strategy={}", strategy.name())));
        command.args((settings.spill == Spill::Never).then_some("--no-spill"));
        command.args((!self.measure).then_some("--known"));
        command.arg("--").args(self.arguments);
        // The planner sees the machine as it is.
        command.env_remove("LD_PRELOAD").env(DISABLE, "1");
        command
    }
}

/// Runs a planner and waits for its answer, at most so long. Starts no thread, and prints nothing: the hook calls it.
pub fn ask(mut command: Command, limit: Duration) -> Answer {
    let deadline = Instant::now() + limit;
    let shown = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return Answer::none(&format!(
                "{shown} cannot be started ({error}): install the greenboost program beside gb-launch"
            ));
        }
    };
    let read = child.stdout.take().map_or_else(|| Ok(String::new()), |stdout| read(stdout, deadline));
    stop(&mut child);
    match read.map(|text| Answer::from_text(&text)) {
        Ok(Some(answer)) => answer,
        Ok(None) => Answer::none(&format!("{shown} gave no answer: is it of the same version as gb-launch?")),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Answer::none(&format!(
            "no answer in {} s: see how long `greenboost plan` takes; what it measures is remembered",
            limit.as_secs_f32()
        )),
        Err(error) => Answer::none(&format!("what {shown} said could not be read: {error}")),
    }
}

/// What a planner says until it closes its side.
fn read(mut from: ChildStdout, deadline: Instant) -> io::Result<String> {
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut ready = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, of a descriptor that `from` keeps open.
        let count = unsafe { libc::poll(&mut ready, 1, i32::try_from(left).unwrap_or(i32::MAX)) };
        if count <= 0 {
            // Out of time, which the next round finds, or interrupted by a signal.
            continue;
        }
        match from.read(&mut piece)? {
            0 => return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into()),
            bytes if text.len() + bytes > MOST => return Err(io::ErrorKind::InvalidData.into()),
            bytes => text.extend_from_slice(&piece[..bytes]),
        }
    }
}

/// Kills the planner and waits for it for a while. One that has ended cannot be killed, and need not be; one that does not
/// end in time is left running. Nobody else started it, so nobody else's wait is disturbed.
fn stop(child: &mut Child) {
    let _ = child.kill();
    let deadline = Instant::now() + GRACE;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{Strategy, Stream};

    fn shell(script: &str, limit: Duration) -> Answer {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        ask(command, limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_written_is_what_is_read() {
        let variables = [("LLAMA_ARG_UBATCH", "512"), ("GREENBOOST_STREAM", "off"), ("GGML_CUDA_DISABLE_GRAPHS", "1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let answer = Answer { line: "a model: all in VRAM".to_owned(), variables };
        assert_eq!(Answer::from_text(&answer.to_text()), Some(answer));
        let none = Answer::none("a file:\n  cannot be read.\nTry another.");
        assert_eq!(none.line, "none: a file: cannot be read. Try another.");
        assert_eq!(Answer::from_text(&none.to_text()), Some(none));
    }

    #[test]
    fn half_an_answer_or_one_that_sets_other_variables_is_none() {
        for text in [
            "",
            "end\n",
            "line\n",
            "line\nLLAMA_ARG_X=1\n",
            "line\nend",
            "line\nLD_PRELOAD=x\nend\n",
            "line\nGREENBOOST_LOG=x\nend\n",
            "line\nGREENBOOST_STREAM=perhaps\nend\n",
            "a\nb\nend\n",
        ] {
            assert_eq!(Answer::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_question_says_what_the_user_fixed_and_nothing_else() {
        let asked = |settings: &Settings| {
            let question = Question { planner: Path::new("p"), settings, measure: true, arguments: &["-m".into()] };
            let words: Vec<_> = question.command().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            words.join(" ")
        };
        let knows_experts = "vec\t_exps\texperts\tids=2 row=7 stride=11 step=18 tokens=1 weights=0";
        let kernels = crate::kernel::from_text(knows_experts).expect("a rule");
        let open = Settings { stream: Stream::On, vram_reserve: 7, kernels, ..Settings::default() };
        assert_eq!(asked(&open), "answer --here --vram-reserve=7 -- -m");
        let fixed = Settings {
            vram: Some(1),
            ring: Some(2),
            fixed: vec![STREAM.to_owned(), EXPERTS.to_owned()],
            strategy: Some(Strategy::Vram),
            spill: Spill::Never,
            ..Settings::default()
        };
        let expected = "answer --here --vram=1 --ring=2 --stream=off --experts=off --no-expert-rules --strategy=vram --no-spill -- -m";
        assert_eq!(asked(&fixed), expected);
    }

    #[test]
    fn an_answer_comes_from_a_child() {
        let answer = shell("echo a plan; echo LLAMA_ARG_X=1; echo noise >&2; echo end", LONG);
        assert_eq!((answer.line.as_str(), answer.variables.len()), ("a plan", 1));
    }

    #[test]
    fn a_planner_that_hangs_crashes_chatters_or_is_missing_holds_nobody_up() {
        let started = Instant::now();
        for (script, words) in [
            ("echo a plan; exec sleep 600", "no answer in 0.3 s"),
            ("echo a plan; kill -SEGV $$", "gave no answer"),
            ("exec yes", "could not be read"),
        ] {
            let answer = shell(script, Duration::from_millis(300));
            assert!(answer.line.contains(words) && answer.variables.is_empty(), "{script}: {answer:?}");
        }
        let missing = ask(Command::new("/nonexistent/greenboost"), LONG);
        assert!(missing.line.contains("/nonexistent/greenboost cannot be started"), "{missing:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
