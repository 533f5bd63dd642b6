//! Can a kernel really read and write a backing, and read the pages of a file? Asked once per device, with kernels.
//!
//! Attributes are not enough: there are boards whose driver creates and maps host memory that kernels then
//! cannot read. The probe runs in a context of its own, because a kernel that faults leaves the context it ran
//! in unusable: nothing that is done before or after the launch could keep the program's own from that. A context is what a
//! probe spends its time on (0.11 s of 0.16 s), so that files are tried in the same one, after the backing.

mod file_pages;

use crate::Memory;
use crate::backing::{HostBacking, HostChunk};
use file_pages::{FilePages, granule};
use greenboost_contract::probe as kernel;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::Reservation;
use greenboost_weights::files::pinned::PinnedPages;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

const WORDS: usize = 1024;

/// What a probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A kernel reads and writes the memory: that, with what there is to add.
    Works(String),
    /// It does not, and why.
    Fails(String),
    /// There was not even the memory to find out: to be asked again.
    NoRoom(String),
}

/// What was found out.
#[derive(Debug)]
pub struct Found {
    /// Of the backing.
    pub backing: Verdict,
    /// Whether a kernel reads the pages of a file: that, in words, or why not. `None`: not tried.
    pub file_pages: Option<Result<String, String>>,
}

/// What a probe finds of a backing; of the pages of a file as well, if those are `wanted`.
pub fn ask(memory: &Memory, device: CUdevice, backing: &dyn HostBacking, wanted: bool) -> Found {
    match backing.ready() {
        Err(why) => Found { backing: Verdict::Fails(why), file_pages: None },
        Ok(()) => run(memory.driver, &memory.files.pinned, device, backing, wanted),
    }
}

/// Tries a backing, and where it works the pages of a file, if those are `wanted`. Takes no VRAM beyond what a context and
/// a small kernel need: the card may be full.
fn run(driver: &Driver, pinned: &PinnedPages, device: CUdevice, backing: &dyn HostBacking, wanted: bool) -> Found {
    let (mut context, mut file_pages) = (null_mut(), None);
    // SAFETY: creates and makes current a context that is destroyed below.
    let result = match unsafe { driver.cuCtxCreate_v2(&mut context, 0, device) } {
        Err(status) => Err(("cuCtxCreate", status)),
        Ok(()) => {
            let mut bench = Bench { driver, pinned, backing, module: null_mut(), ram: None, pages: None };
            let result = bench.try_backing(device);
            if wanted && result == Ok(Ok(())) {
                file_pages = Some(bench.try_file_pages());
            }
            // After a fault nothing can be taken back in the context, but what was registered goes with it.
            // SAFETY: waits for our own context.
            let is_ruined = unsafe { driver.cuCtxSynchronize() }.is_err();
            if !is_ruined {
                bench.clear(true);
            }
            // SAFETY: the context is ours and current on this thread; destroying it makes the former one current.
            let _ = unsafe { driver.cuCtxDestroy_v2(context) };
            if is_ruined {
                bench.clear(false);
            }
            result
        }
    };
    let note = backing.note();
    let noted = |text: String| note.as_ref().map_or(text.clone(), |note| format!("{text} ({note})"));
    let backing = match result {
        Ok(Ok(())) => Verdict::Works(noted("a kernel reads and writes it".to_owned())),
        Ok(Err(wrong)) => Verdict::Fails(wrong.to_owned()),
        Err((what, OUT_OF_MEMORY)) => Verdict::NoRoom(noted(format!("{what}: out of memory"))),
        Err((what, status)) => Verdict::Fails(noted(format!("{what} failed with {status}"))),
    };
    Found { backing, file_pages }
}

/// A driver call that failed.
type Failed = (&'static str, Status);

/// What the context has at hand: the kernels, a granule of RAM, and pages of a file.
struct Bench<'a> {
    driver: &'a Driver,
    pinned: &'a PinnedPages,
    backing: &'a dyn HostBacking,
    /// Goes with the context.
    module: CUmodule,
    ram: Option<(Reservation<'a>, HostChunk)>,
    pages: Option<FilePages<'a>>,
}

impl Bench<'_> {
    /// Gives back what there is, `in_context` or after its end.
    fn clear(&mut self, in_context: bool) {
        if let Some(pages) = self.pages.take() {
            pages.unmap(self.pinned, in_context);
        }
        if let Some((granule, chunk)) = self.ram.take() {
            match in_context {
                true => self.backing.unmap(self.driver, chunk, granule.at()),
                false => self.backing.unmap_without_context(self.driver, chunk, granule.at()),
            }
            self.backing.destroy(self.driver, chunk);
        }
    }

    /// Runs the kernel from one half of a granule of RAM to the other.
    fn try_backing(&mut self, device: CUdevice) -> Result<Result<(), &'static str>, Failed> {
        let (driver, backing) = (self.driver, self.backing);
        let granule = granule(driver).map_err(|status| ("cuMemAddressReserve", status))?;
        let mut chunk = backing.create(driver, device, GRANULE).map_err(|status| ("creating memory", status))?;
        if let Err(status) = backing.map(driver, device, &mut chunk, granule.at()) {
            backing.destroy(driver, chunk);
            return Err(("mapping memory", status));
        }
        let at = granule.at();
        self.ram = Some((granule, chunk));
        self.kernel_reads_and_writes(at, at + GRANULE / 2).map_err(|status| ("the probe kernel", status))
    }

    /// Runs the kernel that only reads from pages of a file to the granule of RAM, which works.
    fn try_file_pages(&mut self) -> Result<String, String> {
        let to =
            self.ram.as_ref().map(|(granule, _)| granule.at() + GRANULE / 2).ok_or("there is no RAM to read to")?;
        let (pages, words) = FilePages::map(self.driver, self.pinned)?;
        let from = self.pages.insert(pages).address();
        let mut seen = vec![0u32; words.len()];
        self.launch(kernel::READ_ENTRY, from, to, words.len())
            .and_then(|()| self.copy_out(&mut seen, to))
            .map_err(|status| format!("the probe kernel failed with {status}"))?;
        let is_read = words.iter().zip(&seen).all(|(there, word)| kernel::copied(*there) == *word);
        is_read
            .then(|| "a kernel reads them".to_owned())
            .ok_or_else(|| "the kernel read other bytes than the file has".to_owned())
    }

    /// Runs the kernel and compares every word.
    fn kernel_reads_and_writes(
        &mut self,
        from: CUdeviceptr,
        to: CUdeviceptr,
    ) -> Result<Result<(), &'static str>, Status> {
        let pattern: Vec<u32> = (0..WORDS as u32).map(|word| word.wrapping_mul(2_654_435_761)).collect();
        let (mut seen, mut left) = (vec![0u32; WORDS], vec![0u32; WORDS]);
        // SAFETY: a C string, and the words that are copied.
        unsafe {
            self.driver.cuModuleLoadData(&mut self.module, kernel::PTX.as_ptr().cast())?;
            self.driver.cuMemcpyHtoD_v2(from, pattern.as_ptr().cast(), size_of_val(&pattern[..]))?;
        }
        self.launch(kernel::ENTRY, from, to, WORDS)?;
        self.copy_out(&mut seen, to)?;
        self.copy_out(&mut left, from)?;
        let read = pattern.iter().zip(&seen).all(|(before, word)| kernel::copied(*before) == *word);
        let written = pattern.iter().zip(&left).all(|(before, word)| kernel::left(*before) == *word);
        match (read, written) {
            (true, true) => Ok(Ok(())),
            (false, _) => Ok(Err("the kernel read other bytes than were there, or wrote them nowhere")),
            (true, false) => Ok(Err("the kernel's writes did not arrive")),
        }
    }

    /// Runs a kernel, and waits for it.
    fn launch(&self, entry: &CStr, from: CUdeviceptr, to: CUdeviceptr, words: usize) -> Result<(), Status> {
        let (mut source, mut target, mut count, mut function) = (from, to, words as u32, null_mut());
        let mut params: [*mut c_void; 3] =
            [(&raw mut source).cast(), (&raw mut target).cast(), (&raw mut count).cast()];
        // SAFETY: the module has the kernel, whose parameters these are.
        unsafe {
            self.driver.cuModuleGetFunction(&mut function, self.module, entry.as_ptr())?;
            self.driver.cuLaunchKernel(function, 4, 1, 1, 256, 1, 1, 0, null_mut(), params.as_mut_ptr(), null_mut())?;
            self.driver.cuCtxSynchronize()
        }
    }

    fn copy_out(&self, words: &mut [u32], from: CUdeviceptr) -> Result<(), Status> {
        // SAFETY: the buffer is as long as what is copied, and half a granule is longer.
        unsafe { self.driver.cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), from, size_of_val(words)) }
    }
}
