//! Arguments as C passes them: places to write, places to read, strings. What the driver's documentation demands of
//! a caller is relied on here and nowhere else.

use crate::errors::{Error, Result};
use std::ffi::{CStr, c_char, c_void};

/// An output argument.
#[repr(transparent)]
pub struct Out<T>(*mut T);

// By hand, since a derive would demand it of T too.
impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Writes where the caller asked; null is an invalid value.
    pub fn put(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        self.opt(value);
        Ok(())
    }

    /// Writes unless the caller passed null.
    pub fn opt(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: a C caller passes null or a place for one T, as the driver's documentation demands.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Whether the caller wants no answer.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The place itself.
    pub fn raw(self) -> *mut T {
        self.0
    }

    /// What the caller left there, for arguments that go both ways.
    pub fn get(self) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// Writes consecutive values, at most `room` of them.
    pub fn fill(self, values: impl IntoIterator<Item = T>, room: usize) {
        for (index, value) in values.into_iter().take(room).enumerate() {
            // SAFETY: the caller promises room for `room` values.
            Out(unsafe { self.0.add(index) }).opt(value);
        }
    }
}

/// An input argument.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    /// Whether the caller passed none.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address itself.
    pub fn raw(self) -> *const T {
        self.0
    }
}

impl<T: Copy> In<T> {
    /// What the caller points at; null is an invalid value.
    pub fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: a C caller passes null or one valid T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The caller's array.
    pub fn list(self, count: usize) -> Result<Vec<T>> {
        if self.0.is_null() && count > 0 {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller promises `count` values.
        (0..count).map(|index| In(unsafe { self.0.add(index) }).get()).collect()
    }
}

impl<T> From<*mut T> for Out<T> {
    fn from(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }
}

impl<T> From<*const T> for In<T> {
    fn from(pointer: *const T) -> In<T> {
        In(pointer)
    }
}

impl In<c_char> {
    /// The caller's string.
    pub fn text(self) -> Result<String> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller passes a null-terminated string.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// A constant C string handed out.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// No string.
    pub const NULL: Text = Text(std::ptr::null());

    /// A string that ends with a zero byte and lives for ever.
    pub fn of(text: &'static str) -> Text {
        debug_assert!(text.ends_with('\0'));
        Text(text.as_ptr().cast())
    }
}

/// How an argument looks in the trace.
pub trait Shown {
    /// Its text.
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($ty:ty)*) => { $(impl Shown for $ty { fn shown(&self) -> String { self.to_string() } })* };
}
shown!(i32 u32 u16 u8 usize f32);

impl Shown for u64 {
    fn shown(&self) -> String {
        format!("{self:#x}")
    }
}
impl<T> Shown for Out<T> {
    fn shown(&self) -> String {
        format!("{:p}", self.0)
    }
}
impl<T> Shown for In<T> {
    fn shown(&self) -> String {
        format!("{:p}", self.0)
    }
}
impl<T> Shown for *mut T {
    fn shown(&self) -> String {
        format!("{self:p}")
    }
}
impl Shown for Option<unsafe extern "C" fn(*mut c_void)> {
    fn shown(&self) -> String {
        format!("{:#x}", self.map_or(0, |function| function as usize))
    }
}
