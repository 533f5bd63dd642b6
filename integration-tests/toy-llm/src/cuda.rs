//! The CUDA driver as a runtime reaches it: `dlopen`, one `dlsym` for `cuGetProcAddress`, and everything else through
//! that. Nothing is linked.

mod table;

use anyhow::{Result, anyhow, bail};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
pub use table::{CudaError, DevicePtr, Handle};
use table::{Functions, GetProcAddress, READ_WRITE, VRAM, ask};

const CAPTURE_MODE_RELAXED: c_uint = 2;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;

/// The driver, initialised.
pub struct Driver {
    functions: Functions,
    devices: c_int,
}

/// Calls a driver function and turns its result into a `Result`. The caller's SAFETY comment says why the arguments are
/// right.
macro_rules! call {
    ($driver:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match ($driver.functions.$function)($($arg),*) {
            0 => Ok(()),
            code => Err(CudaError { call: stringify!($function), code }),
        }
    };
}

impl Driver {
    /// Opens and initialises the driver; `None` where there is no driver or no device.
    pub fn open() -> Result<Option<Self>> {
        // SAFETY: the names are C strings; loading the driver runs its constructors, as in every CUDA program.
        let get = unsafe {
            let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if library.is_null() {
                return Ok(None);
            }
            libc::dlsym(library, c"cuGetProcAddress_v2".as_ptr())
        };
        if get.is_null() {
            bail!("the driver is older than CUDA 12");
        }
        // SAFETY: cuGetProcAddress_v2 has this prototype.
        let get = unsafe { std::mem::transmute::<*mut c_void, GetProcAddress>(get) };
        // As the runtime does: ask it for itself, and go on with the answer.
        let again = ask(get, "cuGetProcAddress")?;
        // SAFETY: at version 12 the name stands for the form with five arguments.
        let get = unsafe { std::mem::transmute::<*mut c_void, GetProcAddress>(again) };
        let mut driver = Self { functions: Functions::resolve(get)?, devices: 0 };
        // SAFETY: cuInit takes flags, which must be 0.
        match unsafe { call!(driver, init(0)) } {
            Err(error) if error.is_no_device() => return Ok(None),
            other => other?,
        }
        let mut count = 0;
        // SAFETY: `count` is valid for the call.
        unsafe { call!(driver, device_count(&raw mut count)) }?;
        driver.devices = count;
        Ok((count > 0).then_some(driver))
    }

    /// How many devices there are.
    pub fn devices(&self) -> c_int {
        self.devices
    }

    /// The name of a device.
    pub fn name(&self, device: c_int) -> Result<String> {
        let mut name = [0 as c_char; 256];
        // SAFETY: the buffer is as long as said; the driver terminates the string.
        let name = unsafe {
            call!(self, device_name(name.as_mut_ptr(), 255, device))?;
            CStr::from_ptr(name.as_ptr())
        };
        Ok(name.to_string_lossy().into_owned())
    }

    /// Makes the primary context of a device current on this thread.
    pub fn enter(&self, index: c_int) -> Result<c_int> {
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: out-pointers are valid for the calls; the context is retained until `leave`.
        unsafe {
            call!(self, device_get(&raw mut device, index))?;
            call!(self, ctx_retain(&raw mut context, device))?;
            call!(self, ctx_set(context))?;
        }
        Ok(device)
    }

    /// Gives the primary context back.
    pub fn leave(&self, device: c_int) -> Result<()> {
        // SAFETY: `enter` retained it.
        Ok(unsafe { call!(self, ctx_release(device)) }?)
    }

    /// Waits for the device.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a context is current.
        Ok(unsafe { call!(self, ctx_sync()) }?)
    }

    /// Free and total bytes of the current device.
    pub fn memory(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are valid for the call.
        unsafe { call!(self, mem_info(&raw mut free, &raw mut total)) }?;
        Ok((free, total))
    }

    /// Allocates device memory.
    pub fn alloc(&self, bytes: u64) -> Result<DevicePtr, CudaError> {
        let mut address = 0;
        // SAFETY: `address` is valid for the call.
        unsafe { call!(self, mem_alloc(&raw mut address, bytes as usize)) }?;
        Ok(address)
    }

    /// Frees what [`Self::alloc`] returned.
    pub fn free(&self, address: DevicePtr) -> Result<()> {
        // SAFETY: a wrong address is an error of the driver, not undefined.
        Ok(unsafe { call!(self, mem_free(address)) }?)
    }

    /// Copies to the device, and waits.
    pub fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        // SAFETY: the slice is readable for its length; the driver checks the device range.
        Ok(unsafe { call!(self, htod(to, bytes.as_ptr().cast(), bytes.len())) }?)
    }

    /// Copies to the device in stream order; the source is pageable, so it is read before the call returns.
    pub fn upload_async(&self, to: DevicePtr, bytes: &[u8], stream: Handle) -> Result<()> {
        // SAFETY: as `upload`.
        Ok(unsafe { call!(self, htod_async(to, bytes.as_ptr().cast(), bytes.len(), stream)) }?)
    }

    /// Copies from the device after the work on `stream`, and waits.
    pub fn download(&self, bytes: &mut [u8], from: DevicePtr, stream: Handle) -> Result<()> {
        // SAFETY: the slice is writable for its length and outlives the wait.
        unsafe { call!(self, dtoh_async(bytes.as_mut_ptr().cast(), from, bytes.len(), stream)) }?;
        self.wait(stream)
    }

    /// Clears device memory.
    pub fn clear(&self, address: DevicePtr, bytes: u64) -> Result<()> {
        // SAFETY: the driver checks the range.
        Ok(unsafe { call!(self, memset(address, 0, bytes as usize)) }?)
    }

    /// Loads PTX text.
    pub fn load(&self, ptx: &CStr) -> Result<Handle> {
        let mut module = null_mut();
        // SAFETY: the text is a C string.
        unsafe { call!(self, module_load(&raw mut module, ptx.as_ptr().cast())) }?;
        Ok(module)
    }

    /// Unloads a module.
    pub fn unload(&self, module: Handle) -> Result<()> {
        // SAFETY: `load` returned it.
        Ok(unsafe { call!(self, module_unload(module)) }?)
    }

    /// A kernel of a module.
    pub fn function(&self, module: Handle, name: &CStr) -> Result<Handle> {
        let mut function = null_mut();
        // SAFETY: the module is loaded and the name a C string.
        unsafe { call!(self, module_function(&raw mut function, module, name.as_ptr())) }
            .map_err(|error| anyhow!("{}: {error}", name.to_string_lossy()))?;
        Ok(function)
    }

    /// Launches `threads` threads (or a few more) of a kernel. Each parameter points to a value of the kernel's type.
    ///
    /// # Safety
    /// The parameters must be those of the kernel, in order and number.
    pub unsafe fn launch(
        &self,
        kernel: Handle,
        threads: u64,
        stream: Handle,
        params: &mut [*mut c_void],
    ) -> Result<()> {
        let blocks = threads.div_ceil(128).clamp(1, 1024) as c_uint;
        // SAFETY: the caller vouches for the parameters.
        Ok(unsafe { call!(self, launch(kernel, blocks, 1, 1, 128, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())) }?)
    }

    /// A stream that the legacy default stream does not wait for.
    pub fn stream(&self) -> Result<Handle> {
        let mut stream = null_mut();
        // SAFETY: the pointer is valid for the call.
        unsafe { call!(self, stream_create(&raw mut stream, STREAM_NON_BLOCKING)) }?;
        Ok(stream)
    }

    /// Destroys a stream.
    pub fn drop_stream(&self, stream: Handle) -> Result<()> {
        // SAFETY: `stream` returned it.
        Ok(unsafe { call!(self, stream_destroy(stream)) }?)
    }

    /// Waits for a stream.
    pub fn wait(&self, stream: Handle) -> Result<()> {
        // SAFETY: the stream is alive.
        Ok(unsafe { call!(self, stream_sync(stream)) }?)
    }

    /// An event without timing.
    pub fn event(&self) -> Result<Handle> {
        let mut event = null_mut();
        // SAFETY: the pointer is valid for the call.
        unsafe { call!(self, event_create(&raw mut event, EVENT_DISABLE_TIMING)) }?;
        Ok(event)
    }

    /// Destroys an event.
    pub fn drop_event(&self, event: Handle) -> Result<()> {
        // SAFETY: `event` returned it.
        Ok(unsafe { call!(self, event_destroy(event)) }?)
    }

    /// Makes `later` wait for what `earlier` holds now.
    pub fn order(&self, earlier: Handle, later: Handle, event: Handle) -> Result<()> {
        // SAFETY: streams and event are alive.
        unsafe {
            call!(self, event_record(event, earlier))?;
            Ok(call!(self, stream_wait(later, event, 0))?)
        }
    }

    /// Runs `work` once as a graph: captured from `stream`, instantiated, launched, and destroyed after it ran.
    pub fn as_graph(&self, stream: Handle, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (mut graph, mut exec) = (null_mut(), null_mut());
        // SAFETY: the stream is alive, and each handle is used only after the call that made it succeeded.
        unsafe {
            call!(self, capture_begin(stream, CAPTURE_MODE_RELAXED))?;
            let done = work();
            let ended = call!(self, capture_end(stream, &raw mut graph));
            done?;
            ended?;
            call!(self, graph_instantiate(&raw mut exec, graph, 0))?;
            call!(self, graph_launch(exec, stream))?;
        }
        self.wait(stream)?;
        // SAFETY: both exist, and the launch has ended.
        unsafe {
            call!(self, graph_exec_destroy(exec))?;
            Ok(call!(self, graph_destroy(graph))?)
        }
    }

    /// The recommended granularity of VRAM maps.
    pub fn map_granularity(&self) -> Result<u64> {
        let mut bytes = 0usize;
        // SAFETY: both pointers are valid for the call.
        unsafe { call!(self, granularity(&raw mut bytes, &VRAM, 1)) }?;
        Ok(bytes as u64)
    }

    /// Reserves device addresses.
    pub fn reserve(&self, bytes: u64) -> Result<DevicePtr> {
        let mut address = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe { call!(self, reserve(&raw mut address, bytes as usize, 0, 0, 0)) }?;
        Ok(address)
    }

    /// Maps new VRAM at reserved addresses; the handle is released at once, as ggml does.
    pub fn map_vram(&self, address: DevicePtr, bytes: u64) -> Result<(), CudaError> {
        let (mut handle, bytes) = (0, bytes as usize);
        // SAFETY: structures are valid for the calls; the range lies in a reservation of ours.
        unsafe {
            call!(self, create(&raw mut handle, bytes, &VRAM, 0))?;
            call!(self, map(address, bytes, 0, handle, 0))?;
            call!(self, release(handle))?;
            call!(self, set_access(address, bytes, &READ_WRITE, 1))
        }
    }

    /// Unmaps `mapped` bytes in one call and gives the whole reservation back.
    pub fn unreserve(&self, address: DevicePtr, mapped: u64, reserved: u64) -> Result<()> {
        // SAFETY: nothing runs on this memory any more, and the reservation is ours.
        unsafe {
            if mapped > 0 {
                call!(self, unmap(address, mapped as usize))?;
            }
            Ok(call!(self, address_free(address, reserved as usize))?)
        }
    }
}

/// A parameter of a kernel launch.
pub fn param<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}
