//! An object the loader has mapped, read in place: its dynamic section, symbols and relocations.
//!
//! Nothing is trusted but what the program headers say is mapped readable: every table is looked up through
//! `Image::slice`, so that a damaged or hand-made object gives `None` and never a wild read. Section headers
//! and files are not needed; deleted files and the vDSO are read like any other object.
//!
//! The program headers of the process are the loader's; those of a copy in memory ([`Image::of_copy`], what tests and
//! fuzzers read) are checked against the copy first. All that follows is the same code.

use goblin::elf::dynamic::{
    DT_GNU_HASH, DT_HASH, DT_JMPREL, DT_NULL, DT_PLTRELSZ, DT_RELA, DT_RELACOUNT, DT_RELASZ, DT_RPATH, DT_RUNPATH,
    DT_SONAME, DT_STRSZ, DT_STRTAB, DT_SYMTAB,
};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_DYNAMIC, PT_GNU_RELRO, PT_LOAD};
use goblin::elf64::dynamic::Dyn;
use goblin::elf64::header::{ELFMAG, Header, SELFMAG};
use goblin::elf64::program_header::ProgramHeader;
use goblin::elf64::reloc::Rela;
use goblin::elf64::sym::Sym;
use std::ffi::CStr;
use std::ops::Range;

/// Whether an object has loaded something at an address: cheaper than to read it all.
///
/// # Safety
/// `info` is as the loader gave it.
pub unsafe fn loads_at(info: &libc::dl_phdr_info, address: usize) -> bool {
    if info.dlpi_phdr.is_null() {
        return false;
    }
    // SAFETY: the loader's own table.
    let segments = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    segments.iter().any(|segment| {
        let start = (info.dlpi_addr as usize).wrapping_add(segment.p_vaddr as usize);
        segment.p_type == PT_LOAD && (start..start.saturating_add(segment.p_memsz as usize)).contains(&address)
    })
}

/// A mapped object. Valid only while the loader cannot unmap it: see `still`.
#[derive(Debug)]
pub struct Image<'a> {
    /// What is added to the object's addresses.
    pub base: usize,
    /// The path the loader used; empty for the executable.
    pub path: &'a [u8],
    segments: &'a [ProgramHeader],
    /// Address of the dynamic section, which with [`Self::base`] identifies the object.
    pub dynamic: usize,
    strings: Range<usize>,
    symbols: usize,
    gnu_hash: usize,
    hash: usize,
    plt: Range<usize>,
    data: Range<usize>,
    soname: Option<usize>,
    /// Has a DT_RPATH, which also serves what this object loads.
    pub rpath: bool,
    /// Has a DT_RUNPATH.
    pub runpath: bool,
}

impl<'a> Image<'a> {
    /// Reads what `dl_iterate_phdr` reports.
    ///
    /// # Safety
    /// `info` is as the loader gave it, and the object stays mapped for `'a`.
    pub unsafe fn new(info: &'a libc::dl_phdr_info) -> Option<Self> {
        if info.dlpi_phdr.is_null() {
            return None;
        }
        // SAFETY: the loader's own pointers. libc's and goblin's program headers have one layout, the ABI's.
        let segments =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr.cast::<ProgramHeader>(), usize::from(info.dlpi_phnum)) };
        let path = match info.dlpi_name.is_null() {
            true => &[][..],
            // SAFETY: a string of the loader's.
            false => unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes(),
        };
        Self::read(info.dlpi_addr as usize, path, segments)
    }

    /// Reads a copy of an object as it lies in memory, its ELF header first: `None` where that is damaged, or where its
    /// program headers speak of more than the copy has.
    pub fn of_copy(copy: &'a [u64]) -> Option<Self> {
        let (base, length) = (copy.as_ptr() as usize, size_of_val(copy));
        // SAFETY: numbers have no padding.
        let bytes = unsafe { plain::as_bytes(copy) };
        let header: &Header = plain::from_bytes(bytes).ok()?;
        if header.e_ident[..SELFMAG] != *ELFMAG || usize::from(header.e_phentsize) != size_of::<ProgramHeader>() {
            return None;
        }
        let table = bytes.get(usize::try_from(header.e_phoff).ok()?..)?;
        let segments: &[ProgramHeader] = plain::slice_from_bytes_len(table, header.e_phnum.into()).ok()?;
        let inside = |segment: &ProgramHeader| {
            segment.p_vaddr.checked_add(segment.p_memsz).is_some_and(|end| end <= length as u64)
        };
        // What is not loaded is only looked at through what is.
        if !segments.iter().filter(|segment| segment.p_type == PT_LOAD).all(inside) {
            return None;
        }
        Self::read(base, &[], segments)
    }

    /// The segments that are loaded must be there for `'a`.
    fn read(base: usize, path: &'a [u8], segments: &'a [ProgramHeader]) -> Option<Self> {
        let mut image = Self {
            base,
            path,
            segments,
            dynamic: 0,
            strings: 0..0,
            symbols: 0,
            gnu_hash: 0,
            hash: 0,
            plt: 0..0,
            data: 0..0,
            soname: None,
            rpath: false,
            runpath: false,
        };
        image.read_dynamic()?;
        Some(image)
    }

    fn read_dynamic(&mut self) -> Option<()> {
        let header = self.segments.iter().find(|segment| segment.p_type == PT_DYNAMIC)?;
        self.dynamic = self.base.wrapping_add(header.p_vaddr as usize);
        let entries = self.slice::<Dyn>(self.dynamic, header.p_memsz as usize / size_of::<Dyn>())?;
        let (mut strings, mut plt, mut data, mut relative) = ((0, 0), (0, 0), (0, 0), 0);
        for entry in entries.iter().take_while(|entry| entry.d_tag != DT_NULL) {
            let value = entry.d_val as usize;
            match entry.d_tag {
                DT_STRTAB => strings.0 = self.absolute(value),
                DT_STRSZ => strings.1 = value,
                DT_SYMTAB => self.symbols = self.absolute(value),
                DT_GNU_HASH => self.gnu_hash = self.absolute(value),
                DT_HASH => self.hash = self.absolute(value),
                DT_JMPREL => plt.0 = self.absolute(value),
                DT_PLTRELSZ => plt.1 = value,
                DT_RELA => data.0 = self.absolute(value),
                DT_RELASZ => data.1 = value,
                DT_RELACOUNT => relative = value,
                DT_SONAME => self.soname = Some(value),
                DT_RPATH => self.rpath = true,
                DT_RUNPATH => self.runpath = true,
                _ => {}
            }
        }
        self.strings = strings.0..strings.0.saturating_add(strings.1);
        self.plt = plt.0..plt.0.saturating_add(plt.1);
        // The first `relative` relocations name no symbol; in large libraries they are nearly all.
        let skipped = relative.saturating_mul(size_of::<Rela>()).min(data.1);
        self.data = data.0.saturating_add(skipped)..data.0.saturating_add(data.1);
        Some(())
    }

    /// The loader rewrites the pointers of most dynamic sections to absolute addresses, but not of all (vDSO).
    fn absolute(&self, value: usize) -> usize {
        if self.contains(value) { value } else { self.base.wrapping_add(value) }
    }

    /// The addresses a segment occupies.
    fn span(&self, segment: &ProgramHeader) -> Range<usize> {
        let start = self.base.wrapping_add(segment.p_vaddr as usize);
        start..start.saturating_add(segment.p_memsz as usize)
    }

    fn loads(&self) -> impl Iterator<Item = &'a ProgramHeader> {
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD)
    }

    /// From the first to the last mapped byte.
    pub fn extent(&self) -> Range<usize> {
        let start = self.loads().map(|segment| self.span(segment).start).min().unwrap_or(0);
        start..self.loads().map(|segment| self.span(segment).end).max().unwrap_or(0)
    }

    /// Whether an address is one of the object's.
    pub fn contains(&self, address: usize) -> bool {
        self.loads().any(|segment| self.span(segment).contains(&address))
    }

    /// Whether an address is code of the object's.
    pub fn executes(&self, address: usize) -> bool {
        self.loads().any(|segment| segment.p_flags & PF_X != 0 && self.span(segment).contains(&address))
    }

    /// What the object asks the page of an address to be protected for.
    pub fn protection(&self, address: usize) -> i32 {
        let rights = [(PF_R, libc::PROT_READ), (PF_W, libc::PROT_WRITE), (PF_X, libc::PROT_EXEC)];
        let segment = self.loads().find(|segment| self.span(segment).contains(&address));
        let flags = segment.map_or(PF_R, |segment| segment.p_flags);
        rights.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, right)| right).sum()
    }

    /// The whole pages the loader makes read-only once the object is relocated; `None` when there are none.
    pub fn relro(&self) -> Option<Range<usize>> {
        let header = self.segments.iter().find(|segment| segment.p_type == PT_GNU_RELRO)?;
        let (span, page) = (self.span(header), super::os::page_size());
        let pages = span.start & !(page - 1)..span.end & !(page - 1);
        (pages.start < pages.end).then_some(pages)
    }

    /// `count` values at an address, if the object maps them readable.
    fn slice<T: plain::Plain>(&self, address: usize, count: usize) -> Option<&'a [T]> {
        let end = address.checked_add(count.checked_mul(size_of::<T>())?)?;
        let inside = self.loads().any(|segment| {
            let span = self.span(segment);
            segment.p_flags & PF_R != 0 && span.start <= address && end <= span.end
        });
        if !inside || !address.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: the range is aligned and inside a readable segment of an object that stays mapped for 'a;
        // `Plain` types have no invalid values.
        Some(unsafe { std::slice::from_raw_parts(address as *const T, count) })
    }

    fn string(&self, offset: usize) -> Option<&'a [u8]> {
        let all = self.slice::<u8>(self.strings.start, self.strings.len())?;
        let rest = all.get(offset..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }

    /// DT_SONAME.
    pub fn soname(&self) -> Option<&'a [u8]> {
        self.string(self.soname?)
    }

    /// The path's last component.
    pub fn file(&self) -> &'a [u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    fn relocations(&self, range: &Range<usize>) -> &'a [Rela] {
        self.slice::<Rela>(range.start, range.len() / size_of::<Rela>()).unwrap_or_default()
    }

    /// Relocations of the PLT.
    pub fn plt_relocations(&self) -> &'a [Rela] {
        self.relocations(&self.plt)
    }

    /// All other relocations, less the leading ones that name no symbol.
    pub fn data_relocations(&self) -> &'a [Rela] {
        self.relocations(&self.data)
    }

    /// The name a relocation refers to.
    pub fn symbol_name(&self, index: usize) -> Option<&'a [u8]> {
        self.string(self.symbol(index)?.st_name as usize)
    }

    fn symbol(&self, index: usize) -> Option<&'a Sym> {
        let address = self.symbols.checked_add(index.checked_mul(size_of::<Sym>())?)?;
        self.slice::<Sym>(address, 1)?.first()
    }

    /// The address of a function the object defines.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        if self.symbols == 0 {
            return None;
        }
        if self.gnu_hash != 0 { self.find_gnu(name) } else { self.find_sysv(name) }
    }

    /// The address of symbol `index`, if it is a defined function of this name. Older and newer versions of a
    /// name have one address in the libraries asked about here.
    fn defined(&self, index: usize, name: &[u8]) -> Option<usize> {
        const FUNCTION: u8 = 2;
        let symbol = self.symbol(index)?;
        let function = matches!(symbol.st_info & 15, 0 | FUNCTION);
        (function && symbol.st_shndx != 0 && symbol.st_value != 0 && self.string(symbol.st_name as usize)? == name)
            .then(|| self.base.wrapping_add(symbol.st_value as usize))
    }

    fn find_gnu(&self, name: &[u8]) -> Option<usize> {
        let hash = name.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        let &[bucket_count, first, bloom_count, shift] = self.slice::<u32>(self.gnu_hash, 4)? else { return None };
        let bloom = self.slice::<u64>(self.gnu_hash + 16, bloom_count as usize)?;
        let word = bloom.get((hash as usize / 64).checked_rem(bloom.len())?)?;
        let bits = (1u64 << (hash % 64)) | (1u64 << (hash.checked_shr(shift).unwrap_or(0) % 64));
        if word & bits != bits {
            return None;
        }
        let buckets_at = self.gnu_hash + 16 + bloom.len() * 8;
        let buckets = self.slice::<u32>(buckets_at, bucket_count as usize)?;
        let mut index = *buckets.get((hash as usize).checked_rem(buckets.len())?)?;
        let chain_at = buckets_at + buckets.len() * 4;
        while let Some(at) = index.checked_sub(first) {
            let link = *self.slice::<u32>(chain_at.checked_add(at as usize * 4)?, 1)?.first()?;
            if (link | 1) == (hash | 1)
                && let Some(address) = self.defined(index as usize, name)
            {
                return Some(address);
            }
            if link & 1 != 0 {
                return None;
            }
            index = index.checked_add(1)?;
        }
        None
    }

    /// Objects linked with `--hash-style=sysv` are few: the symbols are simply gone through.
    fn find_sysv(&self, name: &[u8]) -> Option<usize> {
        let &[_, count] = self.slice::<u32>(self.hash, 2)? else { return None };
        // The count is the object's own word: what lies outside it ends the search.
        (1..count as usize)
            .take_while(|index| self.symbol(*index).is_some())
            .find_map(|index| self.defined(index, name))
    }

    /// The names of all functions at an address, through `visit`. Only for objects with a GNU hash table.
    pub fn each_defined(&self, visit: &mut dyn FnMut(&'a [u8], usize)) {
        let mut index = 1;
        // The hash table knows no number of symbols; the string table follows the symbols in every linker's output.
        while let Some(symbol) = self.symbol(index)
            && (self.symbols >= self.strings.start
                || self.symbols + (index + 1) * size_of::<Sym>() <= self.strings.start)
        {
            if symbol.st_info & 15 == 2
                && symbol.st_shndx != 0
                && let Some(name) = self.string(symbol.st_name as usize)
            {
                visit(name, self.base.wrapping_add(symbol.st_value as usize));
            }
            index += 1;
        }
    }
}
