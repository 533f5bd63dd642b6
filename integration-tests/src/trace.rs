//! A trace that the hook writes (`GREENBOOST_TRACE`), as a test reads it.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// A trace: what a viewer would show.
#[derive(Debug)]
pub struct Trace(Vec<Value>);

/// Something that took time. Microseconds.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it is called.
    pub name: String,
    /// The track it is on.
    pub track: u64,
    /// When it began.
    pub begins: f64,
    /// When it ended.
    pub ends: f64,
    /// What else is said of it.
    pub args: Value,
}

/// What is printed with three decimals may be off by this.
const GRAIN: f64 = 0.002;

impl Bar {
    /// Whether both went on at one time.
    pub fn meets(&self, other: &Bar) -> bool {
        self.begins + GRAIN < other.ends && other.begins + GRAIN < self.ends
    }
}

impl Trace {
    /// Reads a file, which must be JSON from its first byte to its last.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a trace");
        Self(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}")))
    }

    fn of<'a>(&'a self, category: &'a str, phase: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |event| event["cat"] == category && event["ph"] == phase)
    }

    /// The bars of a category.
    pub fn bars(&self, category: &str) -> Vec<Bar> {
        let bar = |event: &Value| {
            let begins = event["ts"].as_f64().expect("a time");
            Bar {
                name: event["name"].as_str().expect("a name").to_owned(),
                track: event["tid"].as_u64().expect("a track"),
                begins,
                ends: begins + event["dur"].as_f64().expect("a length"),
                args: event["args"].clone(),
            }
        };
        self.of(category, "X").map(bar).collect()
    }

    /// How many instants there are of a category.
    pub fn instants(&self, category: &str) -> usize {
        self.of(category, "i").count()
    }

    /// What the trace's end says, by name.
    #[track_caller]
    pub fn end(&self, name: &str) -> f64 {
        let ends: Vec<_> = self.of("end", "i").collect();
        assert_eq!(ends.len(), 1, "one end");
        ends[0]["args"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {}", ends[0]))
    }

    /// Launches that read something else than the copy they say, in words: for each staging slot that a launch reads, the
    /// last copy into it must have ended before the launch began, be of the weight it reads, and no copy may touch the
    /// staging slot while the launch runs.
    pub fn wrong_reads(&self) -> Vec<String> {
        let copies = self.bars("copy");
        let slot = |copy: &Bar| {
            let offset = copy.args["slot"].as_u64().expect("a slot");
            offset..offset + copy.args["bytes"].as_u64().expect("bytes")
        };
        let mut wrong = Vec::new();
        for launch in self.bars("launch") {
            let names = launch.args["reads"].as_array().expect("names");
            for (name, offset) in names.iter().zip(launch.args["slots"].as_array().expect("slots")) {
                let offset = offset.as_u64().expect("an offset");
                let before = copies.iter().filter(|copy| copy.begins <= launch.begins && slot(copy).contains(&offset));
                let last = before.max_by(|a, b| a.begins.total_cmp(&b.begins));
                let Some(last) = last.filter(|copy| copy.name == *name && slot(copy).start == offset) else {
                    wrong.push(format!("{name} is not at {offset}: {last:?} {launch:?}"));
                    continue;
                };
                let range = slot(last);
                let overlaps = |copy: &&Bar| slot(copy).start < range.end && range.start < slot(copy).end;
                let meets = |copy: &&Bar| copy.meets(&launch);
                wrong.extend(
                    copies.iter().filter(overlaps).filter(meets).map(|copy| format!("{copy:?} during {launch:?}")),
                );
            }
        }
        wrong
    }
}
