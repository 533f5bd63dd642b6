//! `greenboost status`: the status records of this machine, as a table or as JSON.

mod experts;
mod streamed;

use crate::output;
use crate::procfs::Process;
use clap::Args;
use experts::Experts;
use greenboost_contract::record::{self, BYPASS_NAMES, MAX_BACKINGS, Record, Text};
use greenboost_contract::{escaped, format_size};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use streamed::Streamed;

/// Options of `greenboost status`.
#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON: an array of processes, sizes in bytes.
    #[arg(long)]
    json: bool,
    /// Print again every second, until interrupted (with --json: one line each time).
    #[arg(long)]
    watch: bool,
    /// Tell also what patches functions, and which calls go to the driver as they are.
    #[arg(long, short)]
    verbose: bool,
}

/// A process, as JSON shows it.
#[derive(Debug, Clone, Serialize)]
struct ProcessStatus {
    pid: u32,
    command: String,
    profile: String,
    layers: String,
    backing_reason: String,
    pressure: String,
    pressure_refused: u64,
    placement: String,
    tensors: u64,
    plan: String,
    ram_budget_bytes: u64,
    ram_used_bytes: u64,
    launches: u64,
    model_file_bytes: u64,
    model_files_changed: u64,
    engine: String,
    other_driver: String,
    experts: String,
    bypasses: BTreeMap<&'static str, u64>,
    devices: Vec<DeviceStatus>,
}

/// A device of a process, as JSON shows it.
#[derive(Debug, Clone, Serialize)]
struct DeviceStatus {
    index: usize,
    uuid: String,
    vram_budget_bytes: u64,
    vram_chunks_bytes: u64,
    vram_plain_bytes: u64,
    vram_mapped_bytes: u64,
    vram_ring_bytes: u64,
    vram_peak_bytes: u64,
    ram: Vec<BackingStatus>,
    page_cache_bytes: u64,
    allocations: u64,
    moved_out_bytes: u64,
    retries: u64,
    refused: u64,
    prefetched_copies: u64,
    prefetched_bytes: u64,
    uploaded_bytes: u64,
    streamed: Streamed,
    experts: Experts,
}

/// RAM of one backing that stands in for a device's VRAM.
#[derive(Debug, Clone, Serialize)]
struct BackingStatus {
    backing: String,
    bytes: u64,
}

/// Prints the status.
pub fn run(options: &Options) -> ExitCode {
    loop {
        let processes = read_all();
        let is_written = match (options.json, options.watch) {
            (true, watch) => output::json(&processes, watch),
            (false, true) => output::redraw(&table(&processes, options.verbose)),
            (false, false) => output::print(&table(&processes, options.verbose)),
        };
        if !options.watch || !is_written {
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn read_all() -> Vec<ProcessStatus> {
    record::all().iter().map(|(pid, record)| process_status(*pid, record)).collect()
}

fn process_status(pid: u32, record: &Record) -> ProcessStatus {
    let value = |cell: &AtomicU64| cell.load(Relaxed);
    let words = Process::new(Path::new("/"), pid).arguments();
    let words: Vec<_> = words.iter().map(|word| escaped(word)).collect();
    let names: [String; MAX_BACKINGS] = std::array::from_fn(|at| text(&record.backings[at]));
    let devices = record.devices.iter().take(record.devices_used.load(Relaxed) as usize).enumerate();
    let devices = devices.map(|(index, device)| DeviceStatus {
        index,
        uuid: text(&device.uuid),
        vram_budget_bytes: value(&device.vram_budget),
        vram_chunks_bytes: value(&device.vram_chunks),
        vram_plain_bytes: value(&device.vram_plain),
        vram_mapped_bytes: value(&device.vram_mapped),
        vram_ring_bytes: value(&device.vram_ring),
        vram_peak_bytes: value(&device.vram_peak),
        ram: names
            .iter()
            .zip(&device.ram)
            .filter(|(name, bytes)| !name.is_empty() || value(bytes) > 0)
            .map(|(name, bytes)| BackingStatus { backing: name.clone(), bytes: value(bytes) })
            .collect(),
        page_cache_bytes: value(&device.page_cache),
        allocations: value(&device.allocations),
        moved_out_bytes: value(&device.moved_out),
        retries: value(&device.retries),
        refused: value(&device.refused),
        prefetched_copies: value(&device.prefetched_copies),
        prefetched_bytes: value(&device.prefetched_bytes),
        uploaded_bytes: value(&device.uploaded),
        streamed: Streamed::of(device),
        experts: Experts::of(device),
    });
    ProcessStatus {
        pid,
        command: words.join(" "),
        profile: text(&record.profile),
        layers: text(&record.layers),
        backing_reason: text(&record.backing_reason),
        pressure: record.pressure().to_owned(),
        pressure_refused: value(&record.pressure_refused),
        placement: text(&record.placement),
        tensors: value(&record.tensors),
        plan: text(&record.plan),
        ram_budget_bytes: value(&record.ram_budget),
        ram_used_bytes: value(&record.ram_used),
        launches: value(&record.launches),
        model_file_bytes: value(&record.file_bytes),
        model_files_changed: value(&record.files_changed),
        engine: record.engine.get(),
        other_driver: record.other_driver.get(),
        experts: text(&record.experts),
        bypasses: BYPASS_NAMES.into_iter().zip(record.bypasses.iter().map(value)).filter(|(_, n)| *n > 0).collect(),
        devices: devices.collect(),
    }
}

/// What a process says of itself is its word, and may be meant for the terminal.
fn text<const N: usize>(text: &Text<N>) -> String {
    escaped(&text.get()).into_owned()
}

fn table(processes: &[ProcessStatus], verbose: bool) -> String {
    if processes.is_empty() {
        // SAFETY: the call has no arguments and cannot fail.
        let others = if unsafe { libc::geteuid() } == 0 { "" } else { " of yours (root sees those of all users)" };
        return format!("no GreenBoost process{others} is running\n");
    }
    let mut text = String::new();
    for process in processes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}  {}", process.pid, shortened(&process.command, 100));
        let _ =
            writeln!(text, "    profile {}, layers {}, {} launches", process.profile, process.layers, process.launches);
        let _ = writeln!(
            text,
            "    RAM     {} of {}{}",
            format_size(process.ram_used_bytes),
            format_size(process.ram_budget_bytes),
            if process.backing_reason.is_empty() { String::new() } else { format!(" ({})", process.backing_reason) }
        );
        if !process.pressure.is_empty() {
            let refused = match process.pressure_refused {
                0 => String::new(),
                times => format!(", RAM refused {times} times"),
            };
            let _ = writeln!(text, "    memory pressure {}{refused}", process.pressure);
        }
        if !process.placement.is_empty() {
            let _ = writeln!(text, "    placed  {}, {} weight tensors known", process.placement, process.tensors);
        }
        if !process.plan.is_empty() {
            let _ = writeln!(text, "    plan    {}", process.plan);
        }
        if process.model_file_bytes > 0 {
            let bytes = format_size(process.model_file_bytes);
            let _ = writeln!(text, "    files   {bytes} of model files are read in the page cache");
        }
        if process.model_files_changed > 0 {
            let _ = writeln!(
                text,
                "    files   {} CHANGED while weights were read in the page cache: answers may be wrong, load the model again",
                process.model_files_changed
            );
        }
        if !process.experts.is_empty() && process.experts != "on" {
            let _ = writeln!(text, "    experts {}", process.experts);
        }
        if !process.other_driver.is_empty() {
            let _ =
                writeln!(text, "    a second driver, {}, is left alone: its memory is not ours", process.other_driver);
        }
        if verbose {
            let counts: Vec<_> = process.bypasses.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
            let _ = writeln!(text, "    engine  {}", process.engine);
            let _ = writeln!(text, "    calls that went to the driver as they were: {counts}");
        }
        if process.devices.is_empty() {
            let _ = writeln!(text, "    no device in use yet");
        }
        for device in &process.devices {
            device_rows(&mut text, device);
        }
    }
    text
}

fn device_rows(text: &mut String, device: &DeviceStatus) {
    let own = device.vram_chunks_bytes + device.vram_plain_bytes + device.vram_mapped_bytes;
    let slots = if device.vram_ring_bytes > 0 {
        format!(", staging slots {}", format_size(device.vram_ring_bytes))
    } else {
        String::new()
    };
    let experts = match device.experts.vram_bytes {
        0 => String::new(),
        bytes => format!(", experts {}", format_size(bytes)),
    };
    let ram: Vec<_> = device.ram.iter().map(|ram| format!("{} {}", ram.backing, format_size(ram.bytes))).collect();
    let _ = writeln!(text, "    device {} {}", device.index, device.uuid);
    let _ = writeln!(
        text,
        "        VRAM  {} of {}: chunks {}, plain {}, mapped {}{slots}{experts}; peak {}",
        format_size(own + device.vram_ring_bytes + device.experts.vram_bytes),
        format_size(device.vram_budget_bytes),
        format_size(device.vram_chunks_bytes),
        format_size(device.vram_plain_bytes),
        format_size(device.vram_mapped_bytes),
        format_size(device.vram_peak_bytes),
    );
    if device.page_cache_bytes > 0 {
        let _ =
            writeln!(text, "        page cache  {} of weights, no copy in RAM", format_size(device.page_cache_bytes));
    }
    let _ = writeln!(text, "        RAM   {}", if ram.is_empty() { "none".to_owned() } else { ram.join(", ") });
    let _ = writeln!(
        text,
        "        {} large allocations, {} moved to RAM, {} retried, {} refused",
        device.allocations,
        format_size(device.moved_out_bytes),
        device.retries,
        device.refused,
    );
    if device.prefetched_copies > 0 {
        let bytes = format_size(device.prefetched_bytes);
        let _ = writeln!(text, "        {} copies ({bytes}) served from VRAM", device.prefetched_copies);
    }
    if device.uploaded_bytes > 0 {
        let _ = writeln!(text, "        {} uploaded by our threads", format_size(device.uploaded_bytes));
    }
    if let Some(streamed) = device.streamed.line(device.vram_ring_bytes) {
        let _ = writeln!(text, "        {streamed}");
    }
    if let Some(experts) = device.experts.line() {
        let _ = writeln!(text, "        {experts}");
    }
}

/// Text shortened to `most` characters, for one line of a terminal.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        text.chars().take(most - 3).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_every_tier_of_a_device() {
        let device = DeviceStatus {
            index: 0,
            uuid: "GPU-1".to_owned(),
            vram_budget_bytes: 12 << 30,
            vram_chunks_bytes: 8 << 30,
            vram_plain_bytes: 1 << 30,
            vram_mapped_bytes: 512 << 20,
            vram_ring_bytes: 768 << 20,
            vram_peak_bytes: 11 << 30,
            ram: vec![BackingStatus { backing: "host-numa".to_owned(), bytes: 5 << 30 }],
            allocations: 2,
            moved_out_bytes: 64 << 20,
            retries: 1,
            refused: 3,
            prefetched_copies: 12,
            prefetched_bytes: 3 << 30,
            uploaded_bytes: 7 << 30,
            page_cache_bytes: 6 << 30,
            streamed: Streamed { bytes: 12 << 30, slot_hits: 4, ..Streamed::default() },
            experts: Experts { vram_bytes: 256 << 20, slots: 2, experts: 8, layers: 3, ..Experts::default() },
        };
        let process = ProcessStatus {
            pid: 7,
            command: "llama-server ".to_owned() + &"x".repeat(200),
            profile: "llama-server".to_owned(),
            layers: "inline,got".to_owned(),
            backing_reason: "probe passed".to_owned(),
            pressure: "critical".to_owned(),
            pressure_refused: 2,
            placement: "by tensor".to_owned(),
            tensors: 291,
            plan: "a model: all in VRAM".to_owned(),
            ram_budget_bytes: 32 << 30,
            ram_used_bytes: 5 << 30,
            launches: 9,
            model_file_bytes: 4 << 30,
            model_files_changed: 1,
            engine: "detour".into(),
            other_driver: "/usr/lib/wsl/lib/libcuda.so".into(),
            experts: "inert: no room".into(),
            bypasses: [("other memory", 7)].into(),
            devices: vec![device],
        };
        let brief = table(std::slice::from_ref(&process), false);
        assert!(
            brief.contains("second driver, /usr/lib/wsl/lib/libcuda.so, is left alone") && !brief.contains("engine")
        );
        let text = table(&[process], true);
        assert!(text.contains("engine  detour") && text.contains("as they were: other memory 7"), "{text}");
        for part in [
            "7  llama-server xxx",
            "...\n",
            "profile llama-server, layers inline,got, 9 launches",
            "RAM     5 GiB of 32 GiB (probe passed)",
            "memory pressure critical, RAM refused 2 times",
            "placed  by tensor, 291 weight tensors known",
            "plan    a model: all in VRAM",
            "VRAM  10.5 GiB of 12 GiB: chunks 8 GiB, plain 1 GiB, mapped 512 MiB, staging slots 768 MiB, experts 256 MiB; peak",
            "experts inert: no room",
            "        experts: 2 of 8 a layer in VRAM, 3 layers; 0 brought in",
            "        streamed 12 GiB through 768 MiB",
            "page cache  6 GiB of weights, no copy in RAM",
            "files   1 CHANGED while weights were read",
            "RAM   host-numa 5 GiB",
            "2 large allocations, 64 MiB moved to RAM, 1 retried, 3 refused",
            "12 copies (3 GiB) served from VRAM",
            "7 GiB uploaded by our threads",
            "files   4 GiB of model files are read in the page cache",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn nothing_running_is_said_in_words() {
        assert!(table(&[], false).starts_with("no GreenBoost process"));
    }
}
