//! The entries through which an object calls functions by name: found by reading alone, so that a fuzzer can do it to
//! any bytes. What becomes of them is decided in `got`.

use super::image::Image;
use goblin::elf::reloc;

#[cfg(target_arch = "x86_64")]
const KINDS: (u32, u32, u32) = (reloc::R_X86_64_JUMP_SLOT, reloc::R_X86_64_GLOB_DAT, reloc::R_X86_64_64);
#[cfg(target_arch = "aarch64")]
const KINDS: (u32, u32, u32) = (reloc::R_AARCH64_JUMP_SLOT, reloc::R_AARCH64_GLOB_DAT, reloc::R_AARCH64_ABS64);

/// A word of an object that holds, or will hold, the address of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it is: aligned, and wholly inside the object.
    pub address: usize,
    /// Of the PLT, and perhaps not resolved yet.
    pub jump: bool,
    /// The function's name, perhaps with a version after it.
    pub name: &'a [u8],
}

/// All of an object's, as far as they are what they should be.
pub fn of<'a>(image: &Image<'a>) -> impl Iterator<Item = Entry<'a>> {
    image.plt_relocations().iter().chain(image.data_relocations()).filter_map(|relocation| {
        let (kind, symbol) = (relocation.r_info as u32, (relocation.r_info >> 32) as usize);
        let (jump, data, absolute) = KINDS;
        if symbol == 0 || !(kind == jump || kind == data || kind == absolute && relocation.r_addend == 0) {
            return None;
        }
        let address = image.base.wrapping_add(relocation.r_offset as usize);
        let last = address.checked_add(size_of::<usize>() - 1)?;
        if !address.is_multiple_of(align_of::<usize>()) || !image.contains(address) || !image.contains(last) {
            return None;
        }
        Some(Entry { address, jump: kind == jump, name: image.symbol_name(symbol)? })
    })
}
