//! The driver's functions on modules and libraries.

use crate::driver;
use crate::edge::{Call, In, Out, driver};
use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::module::{KERNELS, LibraryKernel, MODULES, Module, load, text, unload};
use crate::waiting::{wait_for, wait_for_device};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

/// A loaded library: a module that belongs to no context.
pub struct Library {
    handle: usize,
    module: Arc<Module>,
    kernels: HashMap<String, Arc<LibraryKernel>>,
}

static LIBRARIES: Handles<Library> = Handles::new(8, Error::INVALID_HANDLE);

fn load_into(call: &Call, out: Out<usize>, image: *const c_void) -> Result {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    out.put(load(Some(&context), &text(image)?)?.handle)
}

fn read_file(path: In<c_char>) -> Result<String> {
    let bytes = std::fs::read(path.text()?).map_err(|_| Error::FILE_NOT_FOUND)?;
    let terminated = CString::new(bytes).map_err(|_| Error::INVALID_IMAGE)?;
    text(terminated.as_ptr().cast())
}

fn load_library(out: Out<usize>, image: &str) -> Result {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let module = load(None, image)?;
    let kernels = module.functions.iter().map(|(name, function)| {
        (name.clone(), KERNELS.insert(|handle| LibraryKernel { handle, function: function.clone() }))
    });
    let kernels = kernels.collect();
    out.put(LIBRARIES.insert(|handle| Library { handle, module, kernels }).handle)
}

driver! {
    [quiet] "cuModuleLoadData" 2000 cuModuleLoadData(call, out: Out<usize>, image: In<c_void>) {
        load_into(call, out, image.raw())
    }

    [quiet] "cuModuleLoadDataEx" 2010 cuModuleLoadDataEx(
        call, out: Out<usize>, image: In<c_void>, _count: u32, _options: In<u32>, _values: In<c_void>,
    ) {
        load_into(call, out, image.raw())
    }

    [quiet] "cuModuleLoadFatBinary" 2000 cuModuleLoadFatBinary(call, out: Out<usize>, image: In<c_void>) {
        load_into(call, out, image.raw())
    }

    [quiet] "cuModuleLoad" 2000 cuModuleLoad(call, out: Out<usize>, path: In<c_char>) {
        let context = call.context()?;
        out.put(load(Some(&context), &read_file(path)?)?.handle)
    }

    [ctx] "cuModuleUnload" 2000 cuModuleUnload(call, module: usize) {
        wait_for(&*call.context()?);
        unload(&*MODULES.remove(module)?);
        Ok(())
    }

    [ctx] "cuModuleGetFunction" 2000 cuModuleGetFunction(_call, out: Out<usize>, module: usize, name: In<c_char>) {
        let module = MODULES.get(module)?;
        let function = module.functions.get(&name.text()?).ok_or(Error::NOT_FOUND)?;
        out.put(function.handle)
    }

    [ctx] "cuModuleGetFunctionCount" 12040 cuModuleGetFunctionCount(_call, out: Out<u32>, module: usize) {
        out.put(MODULES.get(module)?.functions.len() as u32)
    }

    [ctx] "cuModuleEnumerateFunctions" 12040 cuModuleEnumerateFunctions(
        _call, out: Out<usize>, room: u32, module: usize,
    ) {
        let module = MODULES.get(module)?;
        out.fill(module.functions.values().map(|function| function.handle), room as usize);
        Ok(())
    }

    [ctx] "cuModuleGetGlobal" 3020 cuModuleGetGlobal_v2(
        _call, address: Out<u64>, size: Out<usize>, module: usize, name: In<c_char>,
    ) {
        let module = MODULES.get(module)?;
        let (at, bytes) = *module.globals.get(&name.text()?).ok_or(Error::NOT_FOUND)?;
        address.opt(at);
        size.opt(bytes);
        Ok(())
    }

    [init] "cuModuleGetLoadingMode" 11070 cuModuleGetLoadingMode(_call, mode: Out<u32>) {
        mode.put(2)
    }

    [init] "cuLibraryLoadData" 12000 cuLibraryLoadData(
        _call, out: Out<usize>, image: In<c_void>, _jit: In<u32>, _jit_values: In<c_void>, _jit_count: u32,
        _options: In<u32>, _values: In<c_void>, _count: u32,
    ) {
        load_library(out, &text(image.raw())?)
    }

    [init] "cuLibraryLoadFromFile" 12000 cuLibraryLoadFromFile(
        _call, out: Out<usize>, path: In<c_char>, _jit: In<u32>, _jit_values: In<c_void>, _jit_count: u32,
        _options: In<u32>, _values: In<c_void>, _count: u32,
    ) {
        load_library(out, &read_file(path)?)
    }

    [init] "cuLibraryUnload" 12000 cuLibraryUnload(_call, library: usize) {
        let library = LIBRARIES.remove(library)?;
        for device in driver::devices() {
            wait_for_device(device.ordinal);
        }
        for kernel in library.kernels.values() {
            let _ = KERNELS.remove(kernel.handle);
        }
        let _ = MODULES.remove(library.module.handle);
        unload(&library.module);
        Ok(())
    }

    [init] "cuLibraryGetKernel" 12000 cuLibraryGetKernel(
        _call, out: Out<usize>, library: usize, name: In<c_char>,
    ) {
        let library = LIBRARIES.get(library)?;
        out.put(library.kernels.get(&name.text()?).ok_or(Error::NOT_FOUND)?.handle)
    }

    [init] "cuLibraryGetKernelCount" 12040 cuLibraryGetKernelCount(_call, out: Out<u32>, library: usize) {
        out.put(LIBRARIES.get(library)?.kernels.len() as u32)
    }

    [ctx] "cuLibraryGetModule" 12000 cuLibraryGetModule(_call, out: Out<usize>, library: usize) {
        out.put(LIBRARIES.get(library)?.module.handle)
    }

    [ctx] "cuLibraryGetGlobal" 12000 cuLibraryGetGlobal(
        _call, _address: Out<u64>, _size: Out<usize>, library: usize, _name: In<c_char>,
    ) {
        debug_assert!(LIBRARIES.get(library).is_ok_and(|found| found.handle == library));
        Err(Error::NOT_FOUND)
    }

    [ctx] "cuKernelGetFunction" 12000 cuKernelGetFunction(_call, out: Out<usize>, kernel: usize) {
        out.put(KERNELS.get(kernel)?.function.handle)
    }
}
