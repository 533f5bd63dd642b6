//! The few NVML calls that doctor makes, found at run time. NVML is a help, not a need: whatever fails is absent.

use super::report::Link;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

const FILE: &str = "libnvidia-ml.so.1";

type Handle = *mut c_void;
type Query = unsafe extern "C" fn(Handle, *mut c_uint) -> c_int;

/// NVML, initialised.
#[derive(Debug)]
pub struct Nvml(Library);

impl Nvml {
    /// Loads and initialises NVML.
    pub fn load() -> Option<Self> {
        // SAFETY: NVML's constructors have no known side effects; this process only probes.
        let library = unsafe { Library::new(FILE) }.ok()?;
        // SAFETY: the signature is nvml.h's.
        let init = unsafe { library.get::<unsafe extern "C" fn() -> c_int>("nvmlInit_v2") }.map(|init| *init).ok()?;
        // SAFETY: it takes no arguments.
        if unsafe { init() } == 0 { Some(Self(library)) } else { None }
    }

    /// The driver's version.
    pub fn driver_version(&self) -> Option<String> {
        type Call = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
        // SAFETY: the signature is nvml.h's.
        let call = unsafe { self.0.get::<Call>("nvmlSystemGetDriverVersion") }.ok()?;
        let mut text = [0u8; 80];
        // SAFETY: the buffer is as long as is said.
        let code = unsafe { call(text.as_mut_ptr().cast(), text.len() as c_uint) };
        let text = CStr::from_bytes_until_nul(&text).ok()?;
        if code == 0 { Some(text.to_string_lossy().into_owned()) } else { None }
    }

    /// The PCIe link of the GPU with this UUID.
    pub fn link(&self, uuid: &str) -> Option<Link> {
        let handle = self.handle(uuid)?;
        Some(Link {
            generation: self.query("nvmlDeviceGetCurrPcieLinkGeneration", handle)?,
            max_generation: self.query("nvmlDeviceGetMaxPcieLinkGeneration", handle)?,
            width: self.query("nvmlDeviceGetCurrPcieLinkWidth", handle)?,
            max_width: self.query("nvmlDeviceGetMaxPcieLinkWidth", handle)?,
        })
    }

    /// Whether MIG is on.
    pub fn mig(&self, uuid: &str) -> Option<bool> {
        type Call = unsafe extern "C" fn(Handle, *mut c_uint, *mut c_uint) -> c_int;
        let handle = self.handle(uuid)?;
        // SAFETY: the signature is nvml.h's.
        let call = unsafe { self.0.get::<Call>("nvmlDeviceGetMigMode") }.ok()?;
        let (mut now, mut later) = (0, 0);
        // SAFETY: both are written by the call.
        if unsafe { call(handle, &mut now, &mut later) } == 0 { Some(now != 0) } else { None }
    }

    fn handle(&self, uuid: &str) -> Option<Handle> {
        type Call = unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int;
        // SAFETY: the signature is nvml.h's.
        let call = unsafe { self.0.get::<Call>("nvmlDeviceGetHandleByUUID") }.ok()?;
        let uuid = CString::new(uuid).ok()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the string and the place for the handle live through the call.
        if unsafe { call(uuid.as_ptr(), &mut handle) } == 0 { Some(handle) } else { None }
    }

    fn query(&self, name: &str, handle: Handle) -> Option<u32> {
        // SAFETY: all functions asked for by this file have this signature in nvml.h.
        let call = unsafe { self.0.get::<Query>(name) }.ok()?;
        let mut value = 0;
        // SAFETY: the value is written by the call.
        if unsafe { call(handle, &mut value) } == 0 { Some(value) } else { None }
    }
}
