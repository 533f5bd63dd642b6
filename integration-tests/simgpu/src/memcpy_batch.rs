//! Batches of copies of boxes.

use crate::array::ARRAYS;
use crate::copy::{Declared, Place, Shape};
use crate::copy_start::{SourceOrder, start};
use crate::edge::{Call, In, Out, driver};
use crate::errors::{Error, Result};
use crate::memcpy::crash_as_the_driver_does;
use crate::stream::Kind;

/// `CUmemcpy3DOperand`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Operand {
    kind: u32,
    /// The address, or the array.
    what: usize,
    /// Elements of a row and rows of a slice of a pointer; elements, rows and slices from the corner of an array.
    numbers: [usize; 3],
}

/// `CUDA_MEMCPY3D_BATCH_OP`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BoxCopy {
    from: Operand,
    to: Operand,
    /// Elements, rows, slices.
    size: [usize; 3],
    source_order: u32,
    flags: u32,
}

const _: () = assert!(size_of::<BoxCopy>() == size_of::<cudarc::driver::sys::CUDA_MEMCPY3D_BATCH_OP>());

impl Operand {
    /// Bytes of an element, where it is an array.
    fn element(&self) -> Result<Option<usize>> {
        match self.kind {
            1 => Ok(None),
            2 => Ok(Some(ARRAYS.get(self.what)?.element())),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn place(&self, element: usize, [width, height, depth]: [usize; 3]) -> Result<Place> {
        let [first, second, third] = self.numbers;
        if self.kind == 2 {
            let bytes = [width * element, height, depth];
            return ARRAYS.get(self.what)?.place([first * element, second, third], bytes);
        }
        let or = |given, least| if given == 0 { least } else { given };
        let (row, rows) = (or(first, width), or(second, height));
        if row < width || rows < height {
            return Err(Error::INVALID_VALUE);
        }
        let pitch = (row * element) as u64;
        Ok(Place { address: self.what as u64, declared: Declared::Any, pitch, slice: pitch * rows as u64 })
    }
}

impl BoxCopy {
    fn ends(&self) -> Result<(Place, Place, Shape)> {
        let element = self.to.element()?.or(self.from.element()?).unwrap_or(1);
        let [width, height, depth] = self.size;
        let shape = Shape { width: (width * element) as u64, height: height as u64, depth: depth as u64 };
        if self.size.contains(&0) {
            return Err(Error::INVALID_VALUE);
        }
        Ok((self.to.place(element, self.size)?, self.from.place(element, self.size)?, shape))
    }
}

/// Runs a batch; an error tells which copy it was, if it was one copy.
fn batch(
    call: &Call,
    list: In<BoxCopy>,
    count: usize,
    flags: u64,
    stream: usize,
) -> core::result::Result<(), (Error, usize)> {
    let whole = |error| (error, usize::MAX);
    let stream = call.stream(stream).map_err(whole)?;
    if stream.kind == Kind::Legacy || count == 0 || flags != 0 {
        return Err(whole(Error::INVALID_VALUE));
    }
    for (index, copy) in list.list(count).map_err(whole)?.into_iter().enumerate() {
        let one = |error| (error, index);
        let order = match copy.source_order {
            1 | 3 => SourceOrder::Stream,
            2 => SourceOrder::AtCall,
            _ => return Err(one(Error::INVALID_VALUE)),
        };
        let (to, from, shape) = copy.ends().map_err(one)?;
        let reach = |place: &Place| {
            (place.address, shape.width + (shape.height - 1) * place.pitch + (shape.depth - 1) * place.slice)
        };
        crash_as_the_driver_does(&[reach(&to), reach(&from)]);
        start(&stream, false, order, to, from, shape).map_err(one)?;
    }
    Ok(())
}

driver! {
    [ctx] "cuMemcpy3DBatchAsync" 12080 cuMemcpy3DBatchAsync | 12080 cuMemcpy3DBatchAsync_ptsz(
        call, count: usize, list: In<BoxCopy>, failed: Out<usize>, flags: u64, stream: usize,
    ) {
        batch(call, list, count, flags, stream).map_err(|(error, index)| {
            failed.opt(index);
            error
        })
    }

    [ctx] "cuMemcpy3DBatchAsync" 13000 cuMemcpy3DBatchAsync_v2 | 13000 cuMemcpy3DBatchAsync_v2_ptsz(
        call, count: usize, list: In<BoxCopy>, flags: u64, stream: usize,
    ) {
        batch(call, list, count, flags, stream).map_err(|(error, _)| error)
    }
}
