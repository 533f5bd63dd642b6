//! ggml's own accessors, from the library whose calls are listened to.

use greenboost_intercept::inject::still::still;
use greenboost_intercept::real::dl;
use greenboost_intercept::slot::Function;
use std::ffi::{CStr, CString, c_char, c_void};

/// Opaque `ggml_tensor`.
pub type Tensor = *mut c_void;
/// Opaque `ggml_backend_buffer`.
pub type Buffer = *mut c_void;

/// The accessors we need. All are pure look-ups; without an optional one less is known.
pub struct Accessors {
    name: unsafe extern "C" fn(Tensor) -> *const c_char,
    bytes: unsafe extern "C" fn(Tensor) -> usize,
    base: unsafe extern "C" fn(Buffer) -> *mut c_void,
    size: unsafe extern "C" fn(Buffer) -> usize,
    data: Option<unsafe extern "C" fn(Tensor) -> *mut c_void>,
    buffer_name: Option<unsafe extern "C" fn(Buffer) -> *const c_char>,
    rows: Option<unsafe extern "C" fn(Tensor) -> i64>,
}

/// The accessors, if the library exports all that are needed.
pub fn find() -> Option<Accessors> {
    const NEEDED: usize = 4;
    const NAMES: [&[u8]; 7] = [
        b"ggml_get_name",
        b"ggml_nbytes",
        b"ggml_backend_buffer_get_base",
        b"ggml_backend_buffer_get_size",
        b"ggml_get_data",
        b"ggml_backend_buffer_name",
        b"ggml_nrows",
    ];
    let mut found = [0usize; NAMES.len()];
    let mut path = Vec::new();
    // A process may have another ggml as well, whose tensors are not like these.
    let listened_to = Function::ggml_backend_tensor_alloc.slot().original() as usize;
    still(|world| {
        world.each(&mut |image| {
            if image.executes(listened_to) {
                path = image.path.to_vec();
                for (name, address) in NAMES.iter().zip(&mut found) {
                    *address = image.find(name).unwrap_or(0);
                }
            }
            !image.executes(listened_to)
        });
    });
    if found[..NEEDED].contains(&0) {
        return None;
    }
    keep(path);
    // SAFETY: exported functions of these names have had these signatures since they exist; see ggml.h, ggml-backend.h.
    // Of an optional one that is missing, the address is zero, which is how `None` of a function pointer looks.
    unsafe {
        Some(Accessors {
            name: std::mem::transmute::<usize, unsafe extern "C" fn(Tensor) -> *const c_char>(found[0]),
            bytes: std::mem::transmute::<usize, unsafe extern "C" fn(Tensor) -> usize>(found[1]),
            base: std::mem::transmute::<usize, unsafe extern "C" fn(Buffer) -> *mut c_void>(found[2]),
            size: std::mem::transmute::<usize, unsafe extern "C" fn(Buffer) -> usize>(found[3]),
            data: std::mem::transmute::<usize, Option<unsafe extern "C" fn(Tensor) -> *mut c_void>>(found[4]),
            buffer_name: std::mem::transmute::<usize, Option<unsafe extern "C" fn(Buffer) -> *const c_char>>(found[5]),
            rows: std::mem::transmute::<usize, Option<unsafe extern "C" fn(Tensor) -> i64>>(found[6]),
        })
    }
}

/// Keeps a library loaded: its functions' addresses are remembered from here on.
fn keep(path: Vec<u8>) {
    // The executable itself has no path, and stays.
    let Some(path) = CString::new(path).ok().filter(|path| !path.is_empty()) else { return };
    if !dl::keep(&path) {
        log::warn!("{path:?} could not be kept loaded: a program that closes it would take our addresses with it");
    }
}

/// A name that a library tells, if it does.
///
/// # Safety
/// Null or a C string.
unsafe fn text(name: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

impl Accessors {
    /// The tensor's name.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn name(&self, tensor: Tensor) -> String {
        // SAFETY: the caller's promise; ggml returns a pointer to the name inside the tensor.
        unsafe { text((self.name)(tensor)) }.unwrap_or_default()
    }

    /// Bytes of the tensor's data, without padding.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn bytes(&self, tensor: Tensor) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { (self.bytes)(tensor) as u64 }
    }

    /// Rows of the tensor in all its dimensions, if this ggml tells.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn rows(&self, tensor: Tensor) -> Option<u64> {
        // SAFETY: the caller's promise.
        self.rows.and_then(|rows| u64::try_from(unsafe { rows(tensor) }).ok())
    }

    /// Where the tensor's data is, if this ggml tells.
    ///
    /// # Safety
    /// A live tensor.
    pub unsafe fn data(&self, tensor: Tensor) -> Option<u64> {
        // SAFETY: the caller's promise.
        self.data.map(|data| unsafe { data(tensor) } as u64)
    }

    /// ggml's name of the kind of memory of a buffer, which names its device: `CUDA0`, `CPU_Mapped`.
    ///
    /// # Safety
    /// A live buffer.
    pub unsafe fn buffer_name(&self, buffer: Buffer) -> Option<String> {
        // SAFETY: the caller's promise.
        self.buffer_name.and_then(|buffer_name| unsafe { text(buffer_name(buffer)) })
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
