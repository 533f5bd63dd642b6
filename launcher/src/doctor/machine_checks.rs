//! Checks of everything but the GPU.

use super::finding::{Facts, Finding, Level};
use crate::machine::Machine;
use crate::ollama::{SERVICE_ADVICE, servers, store};
use greenboost_contract::{engine, format_size, ram};

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// Less than this helps no model that does not fit.
const LITTLE: u64 = 4 << 30;

/// MPS shares one context among programs.
pub fn mps(facts: &Facts) -> Vec<Finding> {
    let found = match (facts.machine.mps_process(), facts.machine.mps_variable) {
        (Some(pid), _) => format!("its control daemon runs (process {pid})"),
        (None, true) => "CUDA_MPS_PIPE_DIRECTORY is set".to_owned(),
        (None, false) => return vec![Finding::ok("off")],
    };
    let meaning = "Under MPS programs share the GPU's memory management: GreenBoost stays passive.";
    let action =
        "End it with `echo quit | nvidia-cuda-mps-control`, or unset the variable for programs under gb-launch.";
    vec![Finding::new(Level::Warn, found, meaning, action)]
}

/// gb-launch needs the library it preloads.
pub fn hook(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.hook {
        Ok(path) => {
            let engine =
                engine::of_library(path).map_or_else(String::new, |engine| format!(" (inline engine {engine})"));
            Finding::ok(format!("{}{engine}", path.display()))
        }
        Err(problem) => Finding::new(Level::Fail, "not found", "gb-launch cannot start anything.", problem.clone()),
    }]
}

/// RAM that could stand in for VRAM.
pub fn memory(facts: &Facts) -> Vec<Finding> {
    let Some(bytes) = facts.machine.available() else {
        return vec![Finding::new(Level::Note, "not known: /proc/meminfo cannot be read", "", "")];
    };
    if bytes < LITTLE {
        let meaning = "Too little to extend VRAM by anything useful.";
        let action = "End other programs, add RAM, or raise the memory limit below.";
        return vec![Finding::new(Level::Warn, format_size(bytes), meaning, action)];
    }
    // What the hook grants where the user names no budget.
    let budget = format_size(ram::budget(bytes));
    vec![Finding::ok(format!("{}, of which {budget} may stand in for VRAM", format_size(bytes)))]
}

/// A limit set from outside, beyond which the OOM killer comes.
pub fn cgroup(facts: &Facts) -> Vec<Finding> {
    let Some(limit) = facts.machine.cgroup_limit() else { return vec![Finding::ok("none")] };
    let meaning = "The RAM budget stays below it.";
    let machine = facts.machine.meminfo("MemAvailable").map(|kib| kib << 10);
    let binds = machine.is_some_and(|available| limit < available);
    let left = facts.machine.available().map(|left| format!(", {} left", format_size(left))).unwrap_or_default();
    let action = "Raise it (docker run --memory, systemd MemoryMax=) if models should use more.";
    vec![if binds {
        Finding::new(Level::Note, format!("{} (cgroup){left}", format_size(limit)), meaning, action)
    } else {
        Finding::ok(format!("{} (cgroup), above what is available", format_size(limit)))
    }]
}

/// Huge pages make registering memory and reading it over the link cheaper.
pub fn huge_pages(facts: &Facts) -> Vec<Finding> {
    let machine = &facts.machine;
    let (free, all) = (machine.meminfo("HugePages_Free").unwrap_or(0), machine.meminfo("HugePages_Total").unwrap_or(0));
    let size = machine.meminfo("Hugepagesize").unwrap_or(2048) << 10;
    let mode = |path| machine.choice(path).unwrap_or_else(|| "not offered".to_owned());
    let (thp, shmem) = (mode(THP), mode(SHMEM));
    let found = format!("reserved {free} free of {all} ({}), transparent {thp}, for memfd {shmem}", format_size(size));
    if free > 0 || !matches!(shmem.as_str(), "never" | "deny" | "not offered") {
        return vec![Finding::ok(found)];
    }
    let meaning = "The memfd backing gets 4 KiB pages: loading takes longer. host-numa memory is not affected.";
    let action = format!(
        "echo advise | sudo tee {SHMEM}\nor reserve some: sudo sysctl vm.nr_hugepages=N (N pages of {})",
        format_size(size)
    );
    vec![Finding::new(Level::Note, found, meaning, action)]
}

/// The limit on locked memory.
pub fn memlock(facts: &Facts) -> Vec<Finding> {
    let Some(limit) = facts.machine.memlock else { return vec![Finding::ok("unlimited")] };
    let meaning = "The NVIDIA driver's pinned memory is usually not counted against it; --mlock of llama.cpp is.";
    let action =
        "If pinning fails: ulimit -l unlimited, LimitMEMLOCK=infinity in a service, --ulimit memlock=-1 for Docker.";
    vec![Finding::new(Level::Note, format!("limited to {}", format_size(limit)), meaning, action)]
}

/// Containers hide parts of the machine.
pub fn container(facts: &Facts) -> Vec<Finding> {
    let Some(kind) = facts.machine.container() else { return vec![Finding::ok("none")] };
    let meaning = "GreenBoost must be inside the container, next to the program; the limits above are the container's.";
    let limit = facts
        .machine
        .cgroup_limit()
        .map_or("no memory limit".to_owned(), |limit| format!("memory limit {}", format_size(limit)));
    let locked = facts.machine.memlock.map_or("unlimited".to_owned(), format_size);
    vec![Finding::new(
        Level::Note,
        format!("{kind}, {limit}, locked memory {locked}"),
        meaning,
        "Mount GreenBoost's folder, and use gb-launch in the container's command.",
    )]
}

/// The kernel module is a help.
pub fn module(facts: &Facts) -> Vec<Finding> {
    if facts.machine.has_module() {
        return vec![Finding::ok("loaded")];
    }
    let meaning = "It is optional: it keeps RAM ready in huge pages. Without it, RAM comes from the driver or a memfd.";
    vec![Finding::new(Level::Note, "not loaded", meaning, "")]
}

/// An Ollama server that knows nothing of us.
pub fn ollama(facts: &Facts) -> Vec<Finding> {
    let servers = servers(&facts.machine.root);
    if servers.is_empty() {
        return vec![Finding::ok("no server is running")];
    }
    let judge = |server: &crate::ollama::Server| {
        let by = server.service.as_deref().map(|unit| format!(", service {unit}")).unwrap_or_default();
        let found = format!("server runs (process {}{by})", server.pid);
        let meaning = "It was started without gb-launch: models it loads are limited to VRAM.";
        match (server.boosted, &server.service) {
            (Some(true), _) => Finding::ok(format!("{found} with GreenBoost")),
            (Some(false), Some(_)) => Finding::new(Level::Warn, found, meaning, SERVICE_ADVICE),
            (Some(false), None) => {
                Finding::new(Level::Warn, found, meaning, "Stop it and run `gb-launch ollama serve`.")
            }
            (None, _) => Finding::new(
                Level::Note,
                found,
                "It belongs to another user: whether gb-launch started it is not known.",
                "Run doctor with sudo to see.",
            ),
        }
    };
    let mut findings: Vec<_> = servers.iter().map(judge).collect();
    findings.extend(servers.iter().filter_map(|server| several_models(&facts.machine, server)));
    findings
}

/// Models for which advice is given one by one.
const MOST_MODELS: usize = 8;

/// What is said to `ollama serve` counts for all of its models, and what is right for one is wrong for another.
fn several_models(machine: &Machine, server: &crate::ollama::Server) -> Option<Finding> {
    // A made-up machine has its stores below its root.
    let stores: Vec<_> =
        server.stores.iter().filter_map(|store| Some(machine.root.join(store.strip_prefix("/").ok()?))).collect();
    let names = store::names(&stores);
    if names.len() < 2 {
        return None;
    }
    let found = format!("{} models are served by process {}", names.len(), server.pid);
    let meaning = "LLAMA_ARG_ variables and options of `ollama serve` count for all of them. Under gb-launch each is planned for by itself;\nwhat you set, set for each, in its Modelfile:";
    let advice = |name: &String| {
        format!(
            "ollama show --modelfile {name}: add what `greenboost plan ollama:{name}` says, and PARAMETER use_mmap true"
        )
    };
    let mut lines: Vec<_> = names.iter().take(MOST_MODELS).map(advice).collect();
    if names.len() > MOST_MODELS {
        lines.push(format!("and so on for {} more", names.len() - MOST_MODELS));
    }
    lines.push("(Ollama turns mmap off where much memory is free, and RAM counts as free under gb-launch: weights would be read into RAM.)".to_owned());
    Some(Finding::new(Level::Note, found, meaning, lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::report::{GpuReport, Outcome};
    use crate::machine::Machine;
    use crate::machine::tests::made_of;

    fn judged(check: fn(&Facts) -> Vec<Finding>, files: &[(&str, &str)], change: impl FnOnce(&mut Machine)) -> Finding {
        let (_keep, mut machine) = made_of(files);
        change(&mut machine);
        let gpu = GpuReport { events: Vec::new(), outcome: Outcome::Finished };
        check(&Facts { machine, gpu, hook: Err("install it".to_owned()) }).remove(0)
    }

    #[test]
    fn every_check_has_words_for_a_machine_that_tells_nothing() {
        for check in super::super::checks::CHECKS {
            let found = judged(check.run, &[], |_| {});
            assert!(!found.found.is_empty(), "{}", check.id);
        }
    }

    #[test]
    fn mps_is_seen_by_its_daemon_and_by_its_variable() {
        assert_eq!(judged(mps, &[], |_| {}).level, Level::Ok);
        assert_eq!(judged(mps, &[], |machine| machine.mps_variable = true).level, Level::Warn);
        let daemon = judged(mps, &[("/proc/42/comm", "nvidia-cuda-mps\n")], |_| {});
        assert!(daemon.level == Level::Warn && daemon.found.contains("42"), "{daemon:?}");
    }

    #[test]
    fn memory_limits_and_locked_memory_are_judged() {
        let memory_file = ("/proc/meminfo", "MemAvailable: 67108864 kB\n");
        assert_eq!(judged(memory, &[memory_file], |_| {}).found, "64 GiB, of which 48 GiB may stand in for VRAM");
        assert_eq!(judged(memory, &[("/proc/meminfo", "MemAvailable: 1048576 kB\n")], |_| {}).level, Level::Warn);
        let limited = |bytes| [memory_file, ("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", bytes)];
        assert_eq!(judged(cgroup, &limited("8589934592\n"), |_| {}).level, Level::Note);
        assert_eq!(judged(cgroup, &limited("max\n"), |_| {}).level, Level::Ok);
        let mut full = limited("8589934592\n").to_vec();
        full.push(("/sys/fs/cgroup/memory.current", "8000000000\n"));
        assert_eq!(judged(memory, &full, |_| {}).level, Level::Warn, "no model could run in what is left");
        assert_eq!(judged(memlock, &[], |_| {}).level, Level::Ok);
        assert!(judged(memlock, &[], |machine| machine.memlock = Some(8 << 20)).found.contains("8 MiB"));
    }

    #[test]
    fn small_pages_for_memfd_are_a_note_with_the_command_to_run() {
        let never = judged(huge_pages, &[(SHMEM, "always within_size advise [never] deny force\n")], |_| {});
        assert!(never.level == Level::Note && never.action.contains("echo advise"), "{never:?}");
        let reserved = ("/proc/meminfo", "HugePages_Total: 8\nHugePages_Free: 8\nHugepagesize: 2048 kB\n");
        assert_eq!(judged(huge_pages, &[reserved], |_| {}).level, Level::Ok);
        assert_eq!(judged(huge_pages, &[(SHMEM, "always [advise] never\n")], |_| {}).level, Level::Ok);
    }

    #[test]
    fn an_ollama_service_without_us_is_a_warning_with_the_drop_in() {
        let server = |environ| {
            [
                ("/proc/9/comm", "ollama\n"),
                ("/proc/9/cmdline", "/usr/local/bin/ollama\0serve\0"),
                ("/proc/9/cgroup", "0::/system.slice/ollama.service\n"),
                ("/proc/9/environ", environ),
            ]
        };
        let found = judged(ollama, &server("HOME=/x\0"), |_| {});
        assert!(found.level == Level::Warn && found.action.contains("systemctl edit ollama"), "{found:?}");
        assert_eq!(judged(ollama, &server("GREENBOOST_ACTIVE=1\0"), |_| {}).level, Level::Ok);
        let hidden = judged(ollama, &server("")[..3], |_| {});
        assert_eq!(hidden.level, Level::Note);
    }

    #[test]
    fn several_models_of_a_server_get_advice_of_their_own() {
        let store = "/data/models/manifests/registry.ollama.ai/library";
        let (one, two) = (format!("{store}/llama3/latest"), format!("{store}/qwen3/30b"));
        let server = |environ| {
            [
                ("/proc/9/comm", "ollama\n"),
                ("/proc/9/cmdline", "/usr/bin/ollama\0serve\0"),
                ("/proc/9/environ", environ),
                (one.as_str(), "{}"),
                (two.as_str(), "{}"),
            ]
        };
        let facts = |files: &[(&str, &str)]| {
            let (keep, machine) = made_of(files);
            let gpu = GpuReport { events: Vec::new(), outcome: Outcome::Finished };
            (keep, Facts { machine, gpu, hook: Err(String::new()) })
        };
        let (_keep, several) = facts(&server("GREENBOOST_ACTIVE=1\0OLLAMA_MODELS=\"/data/models\"\0"));
        let found = ollama(&several);
        assert_eq!((found.len(), found[1].level), (2, Level::Note));
        for part in ["greenboost plan ollama:llama3`", "greenboost plan ollama:qwen3:30b`", "PARAMETER use_mmap true"] {
            assert!(found[1].action.contains(part), "{}", found[1].action);
        }
        let (_keep, one) = facts(&server("GREENBOOST_ACTIVE=1\0OLLAMA_MODELS=/data/models\0")[..4]);
        assert_eq!(ollama(&one).len(), 1);
    }

    #[test]
    fn the_module_is_optional_and_the_hook_is_not() {
        assert_eq!(judged(module, &[], |_| {}).level, Level::Note);
        assert_eq!(judged(module, &[("/dev/greenboost", "")], |_| {}).level, Level::Ok);
        let missing = judged(hook, &[], |_| {});
        assert_eq!((missing.level, missing.action.as_str()), (Level::Fail, "install it"));
    }
}
