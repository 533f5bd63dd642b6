//! `greenboost measure`: the part of plan that talks to the driver. Runs as a child and reports as it goes.

use super::bench::Bench;
use super::{conditions, together};
use crate::driver::cuda::{self, Basics, Calls, CudaError, Transfers};
use crate::driver::describe::{attribute, describe, not_loaded, report, step};
use crate::driver::nvml::Nvml;
use crate::driver::report::Event;
use clap::Args;
use libloading::Library;
use std::ffi::c_int;
use std::process::ExitCode;

/// Not a rate: the share of the last moments in which the GPU was in use.
pub(super) const BUSY: &str = "GPU busy";

/// Options of `greenboost measure`.
#[derive(Debug, Args)]
pub struct MeasureOptions {
    /// Say what the GPU is, and measure nothing.
    #[arg(long)]
    describe: bool,
    /// Measure only how fast this many CPU threads read while copies to the GPU run, and how fast those are.
    #[arg(long, value_name = "THREADS")]
    together: Option<usize>,
}

/// Reports the first GPU and its speeds on standard output.
pub fn run(options: &MeasureOptions) -> ExitCode {
    if let Err(problem) = measure(options) {
        report(&Event::Failed { problem });
    }
    ExitCode::SUCCESS
}

fn measure(options: &MeasureOptions) -> Result<(), String> {
    step(format!("loading {}", cuda::FILE));
    // SAFETY: loading the driver runs its constructors, in a process that exists for nothing else.
    let library = unsafe { Library::new(cuda::FILE) }.map_err(|error| not_loaded(&error))?;
    let missing = |symbol| format!("{} has no {symbol}", cuda::FILE);
    let basics = Basics::find(&library).map_err(missing)?;
    let said = |error: CudaError| error.to_string();
    let nvml = Nvml::load();
    step("initialising the driver (cuInit)");
    let (mut version, mut count) = (0, 0);
    // SAFETY: the flags must be 0, and are; results are written by the calls.
    unsafe {
        basics.driver_version(&mut version).map_err(said)?;
        basics.init(0).map_err(said)?;
        basics.device_count(&mut count).map_err(said)?;
    }
    report(&Event::Driver { cuda: version, version: nvml.as_ref().and_then(|nvml| nvml.driver_version()) });
    if count == 0 {
        return Ok(());
    }
    let calls = Calls::find(&library).map_err(missing)?;
    // Of others it is enough to know what they are and have: the first is measured.
    for index in 1..if options.describe { count } else { 1 } {
        describe_other(&calls, nvml.as_ref(), index).map_err(said)?;
    }
    step("asking about GPU 0");
    let (handle, device) = describe(&calls, nvml.as_ref(), 0).map_err(said)?;
    if let Some(share) = conditions::gpu_busy(&device.uuid) {
        report(&Event::Rate { what: BUSY.to_owned(), gigabytes: share });
    }
    report(&Event::Device(device));
    let multiprocessors = attribute(&calls, cuda::MULTIPROCESSORS, handle);
    report(&Event::Processor { multiprocessors, clock_khz: attribute(&calls, cuda::CLOCK, handle) });
    step("creating a context on GPU 0");
    let mut context = std::ptr::null_mut();
    let (mut free, mut total) = (0, 0);
    // SAFETY: the results are written by the calls; the process ends soon, and the context with it.
    unsafe {
        calls.retain(&mut context, handle).map_err(said)?;
        calls.set_current(context).map_err(said)?;
        calls.memory_info(&mut free, &mut total).map_err(said)?;
    }
    report(&Event::Memory { device: 0, free: free as u64, total: total as u64 });
    if options.describe {
        return Ok(());
    }
    let transfers = Transfers::find(&library).map_err(missing)?;
    let bench = Bench { calls: &calls, transfers: &transfers, blocks: multiprocessors.max(1) * 8 };
    match options.together {
        Some(threads) => together::measure(&bench, threads.max(1), free as u64)?.iter().for_each(report),
        None => bench.run(free as u64)?,
    }
    Ok(())
}

/// Reports another GPU than the first.
fn describe_other(calls: &Calls, nvml: Option<&Nvml>, index: c_int) -> Result<(), CudaError> {
    step(format!("asking about GPU {index}"));
    let (handle, device) = describe(calls, nvml, index)?;
    let mut context = std::ptr::null_mut();
    let (mut free, mut total) = (0, 0);
    // SAFETY: the results are written by the calls; the process ends soon, and the context with it.
    unsafe {
        calls.retain(&mut context, handle)?;
        calls.set_current(context)?;
        calls.memory_info(&mut free, &mut total)?;
    }
    report(&Event::Device(device));
    report(&Event::Memory { device: index, free: free as u64, total: total as u64 });
    Ok(())
}
