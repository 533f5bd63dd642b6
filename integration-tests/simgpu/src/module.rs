//! Modules and libraries: PTX in, functions out. A function exists if its name is one of the built-in kernels.

use crate::accounting;
use crate::alloc;
use crate::context::Context;
use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::kernel::Kernel;
use crate::kernels;
use crate::ptx;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// A function of a module.
pub struct Function {
    /// Its `CUfunction`.
    pub handle: usize,
    /// Its name.
    pub name: CString,
    /// Offset and size of each parameter.
    pub parameters: Vec<(usize, usize)>,
    /// What it does.
    pub kernel: &'static Kernel,
    /// The module it came from.
    pub module: usize,
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub shared_limit: AtomicI32,
}

/// A loaded module.
pub struct Module {
    /// Its `CUmodule`.
    pub handle: usize,
    /// Its functions.
    pub functions: HashMap<String, Arc<Function>>,
    /// Address and size of its variables.
    pub globals: HashMap<String, (u64, usize)>,
}

/// A kernel of a library.
pub struct LibraryKernel {
    /// Its `CUkernel`.
    pub handle: usize,
    /// Its function.
    pub function: Arc<Function>,
}

/// The live functions.
pub static FUNCTIONS: Handles<Function> = Handles::new(5, Error::INVALID_HANDLE);
/// The live kernels of libraries.
pub static KERNELS: Handles<LibraryKernel> = Handles::new(6, Error::INVALID_HANDLE);
/// The live modules.
pub static MODULES: Handles<Module> = Handles::new(7, Error::INVALID_HANDLE);

/// The function a launch names: the driver takes kernels of libraries there as well.
pub fn function(handle: usize) -> Result<Arc<Function>> {
    FUNCTIONS.get(handle).or_else(|_| KERNELS.get(handle).map(|kernel| kernel.function.clone()))
}

/// Tells PTX text from binaries.
pub fn text(image: *const c_void) -> Result<String> {
    if image.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: an image is a binary that begins with at least four bytes, or text that ends with a zero.
    let start: [u8; 4] = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
    match u32::from_le_bytes(start) {
        // Fat binaries and their wrappers, cubins: real code, which this GPU cannot run.
        0xba55_ed50 | 0x4662_43b1 | 0x464c_457f => return Err(Error::NO_BINARY_FOR_GPU),
        _ if !start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
            return Err(Error::INVALID_IMAGE);
        }
        _ => {}
    }
    // SAFETY: text, as just seen.
    let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
    text.to_str().map(str::to_string).map_err(|_| Error::INVALID_PTX)
}

/// Loads a module; without a context it has no globals.
pub fn load(context: Option<&Context>, image: &str) -> Result<Arc<Module>> {
    let program = ptx::parse(image)?;
    let mut globals = HashMap::new();
    for global in &program.globals {
        if let Some(context) = context {
            globals.insert(global.name.clone(), (alloc::take(context, global.size as u64)?, global.size));
        }
    }
    let mut known = Vec::new();
    for entry in program.entries {
        let Some(kernel) = kernels::find(&entry.name) else { continue };
        let sizes: Vec<usize> = entry.parameters.iter().map(|(_, size)| *size).collect();
        if sizes != kernel.parameters {
            return Err(Error::INVALID_PTX);
        }
        known.push((entry, kernel));
    }
    Ok(MODULES.insert(|handle| {
        let functions = known.into_iter().map(|(entry, kernel)| {
            let function = FUNCTIONS.insert(|own| Function {
                handle: own,
                name: CString::new(entry.name.as_str()).unwrap_or_default(),
                parameters: entry.parameters,
                kernel,
                module: handle,
                shared_limit: AtomicI32::new(49152),
            });
            (entry.name, function)
        });
        Module { handle, functions: functions.collect(), globals }
    }))
}

/// Ends what a module has.
pub fn unload(module: &Module) {
    for function in module.functions.values() {
        let _ = FUNCTIONS.remove(function.handle);
    }
    for (address, _) in module.globals.values() {
        let _ = accounting::forget(*address, |_| true);
    }
}
