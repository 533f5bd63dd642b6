//! Checks of the driver and the GPUs.

use super::checks::{Facts, Finding, Level};
use super::probe::OLDEST_COMPUTE;
use crate::driver::report::{Device, Event, Link};
use greenboost_contract::format_size;

/// The oldest driver GreenBoost works with: `cuGetProcAddress` as of CUDA 12.0.
const OLDEST: i32 = 12_000;
/// The first driver with VMM on host NUMA memory.
const HOST_NUMA: i32 = 12_020;

/// What a small model's cache and scratch take, and some of its weights.
const LITTLE_VRAM: u64 = 1 << 30;

fn cuda(version: i32) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

/// The driver can be loaded, is new enough, and answers.
pub fn driver(facts: &Facts) -> Vec<Finding> {
    let known = facts.gpu.events.iter().find_map(|event| match event {
        Event::Driver { cuda, version } => Some((*cuda, version.as_deref())),
        _ => None,
    });
    let Some((version, name)) = known else {
        let problem = facts.gpu.failure().unwrap_or_else(|| "it said nothing".to_owned());
        if let Some(hidden) = hidden(facts) {
            return vec![hidden];
        }
        let action = "Install NVIDIA's driver (Debian: nvidia-driver, Ubuntu: `ubuntu-drivers install`); in a container, start it with --gpus all (NVIDIA Container Toolkit). Then run nvidia-smi to see that it works.";
        return vec![Finding::new(
            Level::Fail,
            problem,
            "The NVIDIA driver cannot be used: there is no GPU memory to extend.",
            action,
        )];
    };
    let found = format!("{}{}", name.map(|name| format!("{name}, ")).unwrap_or_default(), cuda(version));
    let mut findings = vec![if version < OLDEST {
        Finding::new(
            Level::Fail,
            found,
            format!("Older than {}, which GreenBoost needs.", cuda(OLDEST)),
            "Install driver 525 or newer.",
        )
    } else if version < HOST_NUMA {
        let meaning = format!("Older than {}: host-numa memory is missing, memfd is used instead.", cuda(HOST_NUMA));
        Finding::new(Level::Warn, found, meaning, "Install driver 535 or newer.")
    } else {
        Finding::ok(found)
    }];
    if let (Some(_), Some(hidden)) = (facts.gpu.failure(), hidden(facts)) {
        findings.push(hidden);
    } else if let Some(problem) = facts.gpu.failure() {
        let action =
            "Run nvidia-smi and look for NVRM or Xid lines with `sudo dmesg`. A restart helps after a driver update.";
        findings.push(Finding::new(Level::Fail, problem, "The driver is installed and does not work.", action));
    }
    findings
}

/// That the user has hidden every GPU, where that is so: then nothing is wrong with the driver.
fn hidden(facts: &Facts) -> Option<Finding> {
    let value = facts.machine.visible_devices.as_deref()?.trim();
    let found = match value {
        "" => "CUDA_VISIBLE_DEVICES is set and empty, which hides every GPU".to_owned(),
        "-1" | "NoDevFiles" => format!("CUDA_VISIBLE_DEVICES={value} hides every GPU"),
        _ => return None,
    };
    let meaning = "Programs that are started from here see no GPU: there is no GPU memory to extend.";
    let action = "Unset CUDA_VISIBLE_DEVICES, or name a GPU that `nvidia-smi -L` lists.";
    Some(Finding::new(Level::Fail, found, meaning, action))
}

/// A finding for each GPU, or one that says there is none to look at.
fn each(facts: &Facts, judge: impl Fn(&Device) -> Finding) -> Vec<Finding> {
    let several = facts.gpu.devices().count() > 1;
    let findings: Vec<_> = facts
        .gpu
        .devices()
        .map(|device| {
            let finding = judge(device);
            let found = if several { format!("GPU {}: {}", device.index, finding.found) } else { finding.found };
            Finding { found, ..finding }
        })
        .collect();
    if findings.is_empty() { vec![Finding::new(Level::Note, "not checked: no GPU answers", "", "")] } else { findings }
}

/// Which GPUs there are.
pub fn devices(facts: &Facts) -> Vec<Finding> {
    if facts.gpu.devices().next().is_none() && facts.gpu.failure().is_none() {
        if let Some(hidden) = hidden(facts) {
            return vec![hidden];
        }
        let action = "Unset CUDA_VISIBLE_DEVICES, or name a GPU that `nvidia-smi -L` lists.";
        return vec![Finding::new(Level::Fail, "the driver shows no GPU", "There is no GPU memory to extend.", action)];
    }
    each(facts, |device| {
        let memory = facts.gpu.events.iter().find_map(|event| match event {
            Event::Memory { device: index, free, total } if *index == device.index => Some((*free, *total)),
            _ => None,
        });
        let (major, minor) = device.compute;
        let vram = memory.map(|(free, total)| format!(", VRAM {}, {} free", format_size(total), format_size(free)));
        let text = format!("{}, compute {major}.{minor}{}", device.name, vram.unwrap_or_default());
        if device.compute < OLDEST_COMPUTE {
            let meaning = "Older than Volta (compute 7.0): GreenBoost's kernels do not run on it.";
            return Finding::new(Level::Fail, text, meaning, "Use a newer GPU.");
        }
        if memory.is_some_and(|(free, _)| free < LITTLE_VRAM) {
            let meaning =
                format!("Less than {} of VRAM is free: hardly a model can be loaded now.", format_size(LITTLE_VRAM));
            return Finding::new(
                Level::Warn,
                text,
                meaning,
                "End other programs that use the GPU: `nvidia-smi` lists them.",
            );
        }
        Finding::ok(text)
    })
}

/// The link carries everything that is outside VRAM: its width and speed decide how fast that is.
pub fn link(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| {
        let Some(link) = device.link else {
            return Finding::new(Level::Note, "not known: NVML does not tell", "", "");
        };
        let Link { generation, max_generation, width, max_width } = link;
        let found = format!(
            "generation {generation} x{width} now, generation {max_generation} x{max_width} at best ({:.0} GB/s)",
            Link::gigabytes(max_generation, max_width)
        );
        if width < max_width {
            let meaning = format!("Memory outside VRAM is reached at {width}/{max_width} of the possible speed.");
            let action = "Put the card in the slot nearest to the CPU, without a riser, and look for a lane setting (bifurcation) in the firmware.";
            return Finding::new(Level::Warn, found, meaning, action);
        }
        if generation < max_generation {
            let meaning = "An idle GPU lowers its link's generation: this is normal unless it stays so under load.";
            let action = "Look again while a model runs: `nvidia-smi -q -d PCIE`.";
            return Finding::new(Level::Note, found, meaning, action);
        }
        Finding::ok(found)
    })
}

/// What came of something that was tried on a GPU; `None` where it was not.
fn tried<'a>(facts: &'a Facts, device: &Device, wanted: &str) -> Option<Result<(), &'a str>> {
    facts.gpu.events.iter().find_map(|event| match event {
        Event::Tried { device: index, what, problem } if *index == device.index && what == wanted => {
            Some(problem.as_deref().map_or(Ok(()), Err))
        }
        _ => None,
    })
}

/// Reservations made of chunks need the VMM calls.
pub fn vmm(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| {
        if device.vmm {
            return match tried(facts, device, "vmm") {
                None => Finding::ok("supported"),
                Some(Ok(())) => Finding::ok("supported, a kernel read and wrote a chunk of VRAM"),
                Some(Err(problem)) => Finding::new(
                    Level::Fail,
                    format!("supported, but it does not work ({problem})"),
                    "An allocation cannot be made of chunks.",
                    "End other programs that use the GPU; see `sudo dmesg` for NVRM lines; update the driver.",
                ),
            };
        }
        let meaning = "An allocation cannot be made of chunks: GreenBoost leaves this GPU alone.";
        Finding::new(
            Level::Fail,
            "not supported",
            meaning,
            "In a virtual machine, pass the whole GPU through (some vGPU types lack VMM).",
        )
    })
}

/// Chunks in RAM made by the driver.
pub fn host_numa(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| {
        if device.host_numa {
            return Finding::ok("supported");
        }
        Finding::new(
            Level::Note,
            "not supported",
            "The driver cannot make chunks in RAM: memfd is used instead.",
            "A newer driver may.",
        )
    })
}

/// What a kernel could really read and write.
pub fn backings(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| {
        let tried: Vec<_> = facts
            .gpu
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Backing { device: index, backing, problem, detail } if *index == device.index => {
                    Some((backing, problem.as_deref(), detail))
                }
                _ => None,
            })
            .collect();
        let words: Vec<_> = tried
            .iter()
            .map(|(backing, problem, detail)| match problem {
                Some(problem) => format!("{backing} failed ({problem})"),
                None if detail.is_empty() => format!("{backing} works"),
                None => format!("{backing} works ({detail})"),
            })
            .collect();
        // What the driver does not offer is said by the check before.
        let missing = |backing: &str| backing == "host-numa" && !device.host_numa;
        let failed: Vec<_> = tried
            .iter()
            .filter(|(name, problem, _)| problem.is_some() && !missing(name))
            .map(|(name, _, _)| name)
            .collect();
        let works = tried.iter().any(|(_, problem, _)| problem.is_none());
        match (works, failed.as_slice()) {
            _ if tried.is_empty() => {
                Finding::new(Level::Note, "not tried", "The probe did not come that far.", "See the lines above.")
            }
            (false, _) => {
                let action = "Update the driver; see `sudo dmesg` for NVRM lines; check the memory limit below.";
                Finding::new(Level::Fail, words.join("; "), "No memory outside VRAM can be used by the GPU.", action)
            }
            (true, [module]) if module.as_str() == "kmod" => Finding::new(
                Level::Warn,
                words.join("; "),
                "The module's memory is there and not used; another backing is.",
                "docs/kernel-module.md says who may use it, and how it is built and loaded.",
            ),
            (true, [_, ..]) => Finding::new(
                Level::Warn,
                words.join("; "),
                "The first one that works is used.",
                "A driver update may help the other.",
            ),
            _ => Finding::ok(words.join("; ")),
        }
    })
}

/// Memory pinned for copies, which limits from outside can forbid.
pub fn pin(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| match tried(facts, device, "pin") {
        None => Finding::new(Level::Note, "not tried", "The probe did not come that far.", "See the lines above."),
        Some(Ok(())) => Finding::ok("64 MiB could be pinned"),
        Some(Err(problem)) => Finding::new(
            Level::Warn,
            problem,
            "Copies to the GPU are slow, and RAM may not be usable by it.",
            "Raise the limit on locked memory (ulimit -l unlimited, LimitMEMLOCK=infinity in a service, --ulimit memlock=-1 for Docker) and the memory limit.",
        ),
    })
}

/// The page cache of model files, read where it is.
pub fn file_pages(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| match tried(facts, device, "file-pages") {
        None => Finding::new(Level::Note, "not tried", "The probe did not come that far.", "See the lines above."),
        Some(Ok(())) => Finding::ok("a kernel read a file in the page cache"),
        Some(Err(problem)) => Finding::new(
            Level::Note,
            format!("not usable ({problem})"),
            "Weights outside VRAM are copied to RAM, rather than read in the model file's page cache: loading takes longer.",
            "A newer driver may.",
        ),
    })
}

/// A GPU cut in instances.
pub fn mig(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| match device.mig {
        Some(true) => {
            Finding::new(Level::Note, "on", "VRAM is that of the instance, and the link is shared with the others.", "")
        }
        Some(false) => Finding::ok("off"),
        None => Finding::ok("not offered by this GPU"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::report::{GpuReport, Outcome};
    use crate::machine::tests::made_of;

    fn facts(events: Vec<Event>, outcome: Outcome) -> Facts {
        let (_gone, machine) = made_of(&[]);
        Facts { machine, gpu: GpuReport { events, outcome }, hook: Err(String::new()) }
    }

    fn device(change: impl FnOnce(&mut Device)) -> Event {
        let link = Link { generation: 5, max_generation: 5, width: 16, max_width: 16 };
        let mut device = Device {
            index: 0,
            name: "Test GPU".to_owned(),
            uuid: "GPU-0".to_owned(),
            compute: (9, 0),
            vmm: true,
            host_numa: true,
            link: Some(link),
            mig: Some(false),
        };
        change(&mut device);
        Event::Device(device)
    }

    fn backing(name: &str, problem: Option<&str>) -> Event {
        Event::Backing {
            device: 0,
            backing: name.to_owned(),
            problem: problem.map(str::to_owned),
            detail: String::new(),
        }
    }

    fn driver_event(cuda: i32) -> Event {
        Event::Driver { cuda, version: Some("580.65.06".to_owned()) }
    }

    #[test]
    fn a_missing_driver_fails_and_says_what_to_install() {
        let failed = Event::Failed { problem: "libcuda.so.1: cannot open shared object file".to_owned() };
        let facts = facts(vec![failed], Outcome::Finished);
        let found = driver(&facts);
        assert_eq!(found[0].level, Level::Fail);
        assert!(found[0].found.contains("libcuda.so.1") && found[0].action.contains("nvidia-driver"));
        for check in [devices, link, vmm, host_numa, backings, mig] {
            assert_eq!(check(&facts)[0].found, "not checked: no GPU answers");
        }
    }

    #[test]
    fn driver_versions_are_judged() {
        for (version, level, words) in
            [(11_080, Level::Fail, "525"), (12_010, Level::Warn, "535"), (13_000, Level::Ok, "")]
        {
            let found = driver(&facts(vec![driver_event(version), device(|_| {})], Outcome::Finished));
            assert_eq!((found.len(), found[0].level), (1, level), "{version}");
            assert!(found[0].action.contains(words));
        }
        assert_eq!(cuda(12_020), "CUDA 12.2");
    }

    #[test]
    fn a_driver_that_hangs_is_a_failure_of_its_own() {
        let step = Event::Step { doing: "trying memfd memory on GPU 0".to_owned() };
        let found = driver(&facts(vec![driver_event(13_000), step], Outcome::TimedOut));
        assert_eq!(found[1].level, Level::Fail);
        assert_eq!(found[1].found, "the driver did not answer in time while trying memfd memory on GPU 0");
    }

    #[test]
    fn no_visible_gpu_points_at_the_variable_that_hides_it() {
        let found = devices(&facts(vec![driver_event(13_000)], Outcome::Finished));
        assert_eq!(found[0].level, Level::Fail);
        assert!(found[0].action.contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn hidden_gpus_are_not_the_drivers_fault() {
        for (value, words) in [("", "set and empty"), ("-1", "CUDA_VISIBLE_DEVICES=-1")] {
            let failed = Event::Failed { problem: "cuInit returned CUDA_ERROR_NO_DEVICE".to_owned() };
            let mut hidden = facts(vec![driver_event(13_000), failed], Outcome::Finished);
            hidden.machine.visible_devices = Some(value.to_owned());
            let found = driver(&hidden);
            assert!(found[1].level == Level::Fail && found[1].found.contains(words), "{found:?}");
            assert!(found[1].action.contains("Unset CUDA_VISIBLE_DEVICES"));
            hidden.gpu.events.pop();
            assert!(devices(&hidden)[0].found.contains(words));
        }
    }

    #[test]
    fn what_was_tried_is_judged_and_what_does_not_work_is_not_supported_in_words_alone() {
        let judged = |what: &str, problem: Option<&str>| {
            let tried = Event::Tried { device: 0, what: what.to_owned(), problem: problem.map(str::to_owned) };
            let facts = facts(vec![device(|_| {}), tried], Outcome::Finished);
            let check = [("vmm", vmm as fn(&Facts) -> Vec<Finding>), ("pin", pin), ("file-pages", file_pages)];
            let check = check.iter().find(|(name, _)| *name == what).expect("a check").1;
            check(&facts).remove(0)
        };
        for (what, level) in [("vmm", Level::Fail), ("pin", Level::Warn), ("file-pages", Level::Note)] {
            assert_eq!(judged(what, None).level, Level::Ok, "{what}");
            let bad = judged(what, Some("it says no"));
            assert!(bad.level == level && bad.found.contains("it says no"), "{bad:?}");
            assert!(!bad.meaning.is_empty() && !bad.action.is_empty());
        }
    }

    #[test]
    fn a_gpu_without_free_vram_is_not_ready() {
        let memory = |free| Event::Memory { device: 0, free, total: 8 << 30 };
        let judged = |free| devices(&facts(vec![device(|_| {}), memory(free)], Outcome::Finished)).remove(0).level;
        assert_eq!((judged(4 << 30), judged(100 << 20)), (Level::Ok, Level::Warn));
    }

    #[test]
    fn a_narrow_link_is_a_warning_and_a_sleeping_one_is_not() {
        let narrow = Link { generation: 4, max_generation: 4, width: 4, max_width: 16 };
        let asleep = Link { generation: 1, max_generation: 5, width: 16, max_width: 16 };
        let judged = |value| link(&facts(vec![device(|device| device.link = value)], Outcome::Finished)).remove(0);
        assert_eq!(judged(Some(narrow)).level, Level::Warn);
        assert!(judged(Some(narrow)).meaning.contains("4/16"));
        assert_eq!(judged(Some(asleep)).level, Level::Note);
        assert!(judged(Some(asleep)).found.contains("63 GB/s"), "{}", judged(Some(asleep)).found);
        assert_eq!(judged(None).level, Level::Note);
    }

    #[test]
    fn one_working_backing_is_enough_and_none_is_a_failure() {
        let judged = |events: [Event; 2], host_numa: bool| {
            let mut all = vec![device(|device| device.host_numa = host_numa)];
            all.extend(events);
            backings(&facts(all, Outcome::Finished)).remove(0).level
        };
        assert_eq!(judged([backing("host-numa", None), backing("memfd", None)], true), Level::Ok);
        assert_eq!(judged([backing("host-numa", Some("x")), backing("memfd", None)], true), Level::Warn);
        assert_eq!(judged([backing("host-numa", Some("not offered")), backing("memfd", None)], false), Level::Ok);
        assert_eq!(judged([backing("host-numa", Some("x")), backing("memfd", Some("y"))], true), Level::Fail);
        assert_eq!(judged([backing("kmod", Some("x")), backing("memfd", None)], false), Level::Warn);
        assert_eq!(judged([backing("kmod", None), backing("host-numa", Some("not offered"))], false), Level::Ok);
    }

    #[test]
    fn several_gpus_are_told_apart() {
        let found = vmm(&facts(
            vec![device(|_| {}), device(|second| (second.index, second.vmm) = (1, false))],
            Outcome::Finished,
        ));
        assert_eq!((found[0].found.as_str(), found[0].level), ("GPU 0: supported", Level::Ok));
        assert_eq!((found[1].found.as_str(), found[1].level), ("GPU 1: not supported", Level::Fail));
    }
}
