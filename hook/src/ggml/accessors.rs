//! ggml's own accessors, from the library that exports them.

use crate::inject::still::still;
use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

/// Opaque `ggml_tensor`.
pub type Tensor = *mut c_void;
/// Opaque `ggml_backend_buffer`.
pub type Buffer = *mut c_void;

/// The accessors we need. All are pure look-ups.
pub struct Accessors {
    name: unsafe extern "C" fn(Tensor) -> *const c_char,
    bytes: unsafe extern "C" fn(Tensor) -> usize,
    base: unsafe extern "C" fn(Buffer) -> *mut c_void,
    size: unsafe extern "C" fn(Buffer) -> usize,
}

/// The accessors, if one object exports them all. Looked up once ggml is known to be there.
pub fn get() -> Option<&'static Accessors> {
    static FOUND: OnceLock<Option<Accessors>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref()
}

fn find() -> Option<Accessors> {
    const NAMES: [&[u8]; 4] =
        [b"ggml_get_name", b"ggml_nbytes", b"ggml_backend_buffer_get_base", b"ggml_backend_buffer_get_size"];
    let mut found = [0usize; NAMES.len()];
    still(|world| {
        world.each(&mut |image| {
            for (name, address) in NAMES.iter().zip(&mut found) {
                *address = image.find(name).unwrap_or(0);
            }
            found.contains(&0)
        });
    });
    if found.contains(&0) {
        return None;
    }
    // SAFETY: exported functions of these names have had these signatures since they exist; see ggml.h, ggml-backend.h.
    unsafe {
        Some(Accessors {
            name: std::mem::transmute::<usize, unsafe extern "C" fn(Tensor) -> *const c_char>(found[0]),
            bytes: std::mem::transmute::<usize, unsafe extern "C" fn(Tensor) -> usize>(found[1]),
            base: std::mem::transmute::<usize, unsafe extern "C" fn(Buffer) -> *mut c_void>(found[2]),
            size: std::mem::transmute::<usize, unsafe extern "C" fn(Buffer) -> usize>(found[3]),
        })
    }
}

impl Accessors {
    /// The tensor's name.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn name(&self, tensor: Tensor) -> String {
        // SAFETY: the caller's promise; ggml returns a pointer to the name inside the tensor.
        unsafe {
            let name = (self.name)(tensor);
            if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        }
    }

    /// Bytes of the tensor's data, without padding.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn bytes(&self, tensor: Tensor) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { (self.bytes)(tensor) as u64 }
    }

    /// First address and bytes of a buffer.
    ///
    /// # Safety
    /// A live buffer.
    pub unsafe fn range(&self, buffer: Buffer) -> (u64, u64) {
        // SAFETY: the caller's promise.
        unsafe { ((self.base)(buffer) as u64, (self.size)(buffer) as u64) }
    }
}
