//! Addresses in kernel parameters: found, and replaced in a copy of the parameters.
//!
//! Parameters come as a list of pointers to values, or packed in one buffer. The program's own are never written to:
//! it may use them again.

use super::layout::Layout;
use greenboost_contract::experts::Pointer;
use greenboost_cuda::abi::CUdeviceptr;
use smallvec::SmallVec;
use std::ffi::c_void;

/// `CU_LAUNCH_PARAM_BUFFER_POINTER`, `..._SIZE`, `..._END`.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;
const END: usize = 0;

/// Replaced parameters, in the form they came in. Kept where a launch's usual number of them needs no allocation.
#[derive(Debug, Default)]
pub struct Replaced {
    /// Values with replaced addresses in them, one after the other.
    values: SmallVec<[u64; 32]>,
    /// For each of them: the parameter, and where it begins in `values`.
    places: SmallVec<[(usize, usize); 8]>,
    pointers: SmallVec<[*mut c_void; 24]>,
    /// The packed form's list.
    extra: [*mut c_void; 5],
    /// Bytes of the packed form; 0 for the list of pointers.
    size: usize,
}

impl Replaced {
    /// The list of pointers to hand to the driver; null when they are packed.
    pub fn params(&mut self) -> *mut *mut c_void {
        if self.size > 0 { std::ptr::null_mut() } else { self.pointers.as_mut_ptr() }
    }

    /// The packed form to hand to the driver; null when they are a list.
    pub fn extra(&mut self) -> *mut *mut c_void {
        if self.size > 0 { self.extra.as_mut_ptr() } else { std::ptr::null_mut() }
    }

    /// Completes what points into the value itself, which must not move any more.
    pub fn seal(&mut self) {
        let values = self.values.as_mut_ptr();
        for (number, at) in &self.places {
            self.pointers[*number] = values.wrapping_add(*at).cast();
        }
        if self.size > 0 {
            let size = (&raw mut self.size).cast::<c_void>();
            self.extra =
                [BUFFER_POINTER as *mut c_void, values.cast(), BUFFER_SIZE as *mut c_void, size, END as *mut c_void];
        }
    }

    /// Keeps a copy of `bytes` at `value`; where it begins in `values`.
    ///
    /// # Safety
    /// There are this many bytes.
    unsafe fn copy(&mut self, value: *const u8, bytes: usize) -> usize {
        let at = self.values.len();
        self.values.resize(at + bytes.div_ceil(8), 0);
        // SAFETY: the caller's promise; room has been made for at least as many.
        unsafe { std::ptr::copy_nonoverlapping(value, self.values[at..].as_mut_ptr().cast(), bytes) };
        at
    }
}

/// Asks `replace` about every 8-byte word of the parameters that may be an address, with the parameter's number. `None` when nothing is replaced.
///
/// # Safety
/// `params` or `extra` as a program passes them to a launch of the function with this layout.
pub unsafe fn replace(
    layout: &Layout,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    replace: &mut dyn FnMut(Pointer, CUdeviceptr) -> Option<CUdeviceptr>,
) -> Option<Replaced> {
    // SAFETY: the caller's promise.
    unsafe {
        if !params.is_null() {
            list(layout, params, replace)
        } else if !extra.is_null() {
            packed(layout, extra, replace)
        } else {
            None
        }
    }
}

/// Words of a parameter that may be addresses: those at multiples of 8, where a compiler puts pointers, also inside
/// structures. What has pointers in it has a size and place of that alignment; anything else is numbers, and numbers that
/// look like addresses are common (llama.cpp hands divisors over as three 32-bit numbers, and VRAM may lie low).
unsafe fn words(value: *const u8, offset: usize, bytes: usize) -> impl Iterator<Item = (usize, u64)> {
    let count = if offset.is_multiple_of(8) && bytes.is_multiple_of(8) { bytes / 8 } else { 0 };
    // SAFETY: whole words inside the value.
    (0..count).map(move |word| (word, unsafe { value.add(word * 8).cast::<u64>().read_unaligned() }))
}

unsafe fn list(
    layout: &Layout,
    params: *mut *mut c_void,
    replace: &mut dyn FnMut(Pointer, CUdeviceptr) -> Option<CUdeviceptr>,
) -> Option<Replaced> {
    let mut replaced = Replaced::default();
    for (number, (offset, bytes)) in layout.params.iter().enumerate() {
        // SAFETY: the list has a pointer for each parameter, to a value of its size.
        let value = unsafe { (*params.add(number)).cast::<u8>().cast_const() };
        // SAFETY: as above.
        for (word, address) in unsafe { words(value, *offset, *bytes) } {
            let Some(new) = replace(Pointer { param: number, offset: word * 8 }, address) else { continue };
            // A value of several addresses is copied once.
            let at = match replaced.places.last() {
                Some((known, at)) if *known == number => *at,
                _ => {
                    // SAFETY: as above.
                    let at = unsafe { replaced.copy(value, *bytes) };
                    replaced.places.push((number, at));
                    at
                }
            };
            replaced.values[at + word] = new;
        }
    }
    if replaced.places.is_empty() {
        return None;
    }
    // SAFETY: as above.
    replaced.pointers.extend((0..layout.params.len()).map(|at| unsafe { *params.add(at) }));
    Some(replaced)
}

unsafe fn packed(
    layout: &Layout,
    extra: *mut *mut c_void,
    replace: &mut dyn FnMut(Pointer, CUdeviceptr) -> Option<CUdeviceptr>,
) -> Option<Replaced> {
    // SAFETY: the caller's promise.
    let (buffer, size) = unsafe { buffer_of(extra) }?;
    let mut replaced = Replaced::default();
    let inside = |(_, (offset, bytes)): &(usize, &(usize, usize))| offset + bytes <= size;
    for (number, (offset, bytes)) in layout.params.iter().enumerate().filter(inside) {
        // SAFETY: a value inside the buffer, which has this many bytes.
        for (word, address) in unsafe { words(buffer.add(*offset), *offset, *bytes) } {
            let Some(new) = replace(Pointer { param: number, offset: word * 8 }, address) else { continue };
            if replaced.size == 0 {
                // SAFETY: as above.
                unsafe { replaced.copy(buffer, size) };
                replaced.size = size;
            }
            replaced.values[offset / 8 + word] = new;
        }
    }
    (replaced.size > 0).then_some(replaced)
}

/// The buffer of packed parameters, and its bytes. `None`: there is something else in the list.
///
/// # Safety
/// `extra` as a program passes it to a launch.
unsafe fn buffer_of(extra: *mut *mut c_void) -> Option<(*const u8, usize)> {
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), 0usize);
    let mut at = 0;
    loop {
        // SAFETY: pairs of a kind and a value, ended by END.
        let (kind, value) = unsafe { (*extra.add(at) as usize, extra.add(at + 1)) };
        match kind {
            // SAFETY: the value behind the kind.
            BUFFER_POINTER => buffer = unsafe { *value }.cast::<u8>(),
            // SAFETY: a pointer to the size.
            BUFFER_SIZE => size = unsafe { *(*value).cast::<usize>() },
            END => break,
            _ => return None,
        }
        at += 2;
    }
    (!buffer.is_null() && size > 0).then_some((buffer, size))
}

/// The parameters of a launch, to read single words of.
pub struct Values<'a> {
    layout: &'a Layout,
    params: *mut *mut c_void,
    packed: Option<(*const u8, usize)>,
}

impl<'a> Values<'a> {
    /// The parameters of a launch. `None`: it has none, or they are packed in a way that nobody knows.
    ///
    /// # Safety
    /// `params` or `extra` as a program passes them to a launch of the function with this layout; valid while this lives.
    pub unsafe fn of(layout: &'a Layout, params: *mut *mut c_void, extra: *mut *mut c_void) -> Option<Self> {
        if !params.is_null() {
            return Some(Self { layout, params, packed: None });
        }
        // SAFETY: the caller's promise.
        let packed = (!extra.is_null()).then(|| unsafe { buffer_of(extra) }).flatten()?;
        Some(Self { layout, params, packed: Some(packed) })
    }

    /// A number of as many bytes as `T` has, at a place; `None`: no parameter has it.
    fn read<T: Copy>(&self, at: Pointer) -> Option<T> {
        let (offset, bytes) = *self.layout.params.get(at.param)?;
        if at.offset + size_of::<T>() > bytes {
            return None;
        }
        let value = match self.packed {
            // SAFETY: the list has a pointer for each parameter, to a value of its size.
            None => unsafe { (*self.params.add(at.param)).cast::<u8>().cast_const() },
            Some((buffer, size)) if offset + bytes <= size => buffer.wrapping_add(offset),
            Some(_) => return None,
        };
        // SAFETY: inside the value.
        Some(unsafe { value.add(at.offset).cast::<T>().read_unaligned() })
    }

    /// The address at a place.
    pub fn address(&self, at: Pointer) -> Option<CUdeviceptr> {
        self.read(at)
    }

    /// A parameter of 32 bits.
    pub fn number(&self, param: usize) -> Option<u32> {
        self.read(Pointer { param, offset: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null_mut;

    /// Of parameters of these sizes, each at the next multiple of 8 or, when smaller, of 4.
    fn layout(sizes: &[usize]) -> Layout {
        let mut end = 0usize;
        let place = |bytes: &usize| {
            let offset = end.next_multiple_of(if bytes.is_multiple_of(8) { 8 } else { 4 });
            end = offset + bytes;
            (offset, *bytes)
        };
        Layout { params: sizes.iter().map(place).collect(), ..Layout::default() }
    }

    fn plus_one(_: Pointer, address: u64) -> Option<u64> {
        (address >= 1000).then_some(address + 1)
    }

    #[test]
    fn addresses_in_a_list_are_replaced_also_inside_structures_and_the_programs_own_stay() {
        let (mut plain, mut structure, mut small) = (1000u64, [7u64, 2000, 3000], 5u32);
        let mut params: [*mut c_void; 3] =
            [(&raw mut plain).cast(), (&raw mut structure).cast(), (&raw mut small).cast()];
        let layout = layout(&[8, 24, 4]);
        // SAFETY: the list matches the layout.
        let mut replaced =
            unsafe { replace(&layout, params.as_mut_ptr(), null_mut(), &mut plus_one) }.expect("three addresses");
        replaced.seal();
        assert!(replaced.extra().is_null());
        // SAFETY: the replaced list has the same form.
        unsafe {
            let list = replaced.params();
            assert_eq!(*(*list).cast::<u64>(), 1001);
            assert_eq!(*(*list.add(1)).cast::<[u64; 3]>(), [7, 2001, 3001]);
            assert_eq!(*list.add(2), params[2]);
        }
        assert_eq!((plain, structure, small), (1000, [7, 2000, 3000], 5));
    }

    #[test]
    fn packed_parameters_keep_their_form() {
        let mut buffer = [1u64, 1000, 2];
        let mut size = 24usize;
        let mut extra: [*mut c_void; 5] = [
            BUFFER_POINTER as *mut c_void,
            buffer.as_mut_ptr().cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            null_mut(),
        ];
        // SAFETY: the packed form as cuda.h has it.
        let mut replaced =
            unsafe { replace(&layout(&[8, 8, 8]), null_mut(), extra.as_mut_ptr(), &mut plus_one) }.expect("one");
        replaced.seal();
        assert!(replaced.params().is_null());
        // SAFETY: as above.
        unsafe {
            let extra = replaced.extra();
            assert_eq!(*(*extra.add(1)).cast::<[u64; 3]>(), [1, 1001, 2]);
            assert_eq!(*(*extra.add(3)).cast::<usize>(), 24);
        }
    }

    #[test]
    fn numbers_that_look_like_addresses_stay() {
        // A divisor as llama.cpp hands it over, {multiplier, shift, divisor}: with the shift it looks like an address.
        let (mut divisor, mut pointer) = ([1u32, 5, 32], 1u64 << 33);
        let mut params: [*mut c_void; 2] = [(&raw mut divisor).cast(), (&raw mut pointer).cast()];
        let layout = layout(&[12, 8]);
        assert_eq!(layout.params, [(0, 12), (16, 8)]);
        // SAFETY: the list matches the layout.
        let mut replaced =
            unsafe { replace(&layout, params.as_mut_ptr(), null_mut(), &mut plus_one) }.expect("the pointer");
        replaced.seal();
        // SAFETY: the replaced list has the same form.
        unsafe {
            assert_eq!(*replaced.params(), params[0]);
            assert_eq!(*(*replaced.params().add(1)).cast::<u64>(), (1 << 33) + 1);
        }
        let mut packed = [0x5_0000_0001u64, 32 | 7 << 32, 1 << 33];
        let mut size = 24usize;
        let mut extra: [*mut c_void; 5] = [
            BUFFER_POINTER as *mut c_void,
            packed.as_mut_ptr().cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            null_mut(),
        ];
        // SAFETY: the packed form as cuda.h has it.
        let mut replaced =
            unsafe { replace(&layout, null_mut(), extra.as_mut_ptr(), &mut plus_one) }.expect("the pointer");
        replaced.seal();
        // SAFETY: as above.
        unsafe {
            assert_eq!(*(*replaced.extra().add(1)).cast::<[u64; 3]>(), [packed[0], packed[1], (1 << 33) + 1]);
        }
    }

    #[test]
    fn single_values_are_read_from_a_list_and_from_a_buffer() {
        let (mut structure, mut small) = ([7u64, 2000], 5u32);
        let mut params: [*mut c_void; 2] = [(&raw mut structure).cast(), (&raw mut small).cast()];
        let mut buffer = [7u64, 2000, 5];
        let mut size = 20usize;
        let mut extra: [*mut c_void; 5] = [
            BUFFER_POINTER as *mut c_void,
            buffer.as_mut_ptr().cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            null_mut(),
        ];
        let layout = layout(&[16, 4]);
        for (params, extra) in [(params.as_mut_ptr(), null_mut()), (null_mut(), extra.as_mut_ptr())] {
            // SAFETY: both match the layout.
            let values = unsafe { Values::of(&layout, params, extra) }.expect("parameters");
            let at = |param, offset| values.address(Pointer { param, offset });
            assert_eq!((at(0, 0), at(0, 8), at(0, 16), at(1, 0), at(2, 0)), (Some(7), Some(2000), None, None, None));
            assert_eq!((values.number(1), values.number(0), values.number(2)), (Some(5), Some(7), None));
        }
    }

    #[test]
    fn nothing_to_replace_costs_nothing() {
        let mut plain = 5u64;
        let mut params: [*mut c_void; 1] = [(&raw mut plain).cast()];
        // SAFETY: the list matches the layout.
        assert!(unsafe { replace(&layout(&[8]), params.as_mut_ptr(), null_mut(), &mut plus_one) }.is_none());
    }
}
