//! Checks of the driver and the GPUs.

use super::finding::{Facts, Finding, Level};
use super::probe::OLDEST_COMPUTE;
use crate::driver::report::{Device, Event, Link};
use greenboost_contract::format_size;

/// The oldest driver GreenBoost works with: `cuGetProcAddress` as of CUDA 12.0.
const OLDEST: i32 = 12_000;
/// The first driver with VMM on host NUMA memory.
const HOST_NUMA: i32 = 12_020;

/// What a small model's cache and scratch take, and some of its weights.
const LITTLE_VRAM: u64 = 1 << 30;

pub(super) fn cuda(version: i32) -> String {
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

/// A GPU that is split into instances.
pub fn mig(facts: &Facts) -> Vec<Finding> {
    each(facts, |device| match device.mig {
        Some(true) => {
            Finding::new(Level::Note, "on", "VRAM is that of the instance, and the link is shared with the others.", "")
        }
        Some(false) => Finding::ok("off"),
        None => Finding::ok("not offered by this GPU"),
    })
}
