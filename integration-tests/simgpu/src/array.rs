//! Arrays: memory with a shape and without an address. Here they are rows one after the other, which nobody can tell.

use crate::alloc;
use crate::copy::{Declared, Place};
use crate::edge::{Call, In, Out, driver};
use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::va::Origin;
use crate::waiting::wait_for_device;

/// `CUDA_ARRAY_DESCRIPTOR`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Description {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Description3d {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

const _: () = assert!(size_of::<Description>() == size_of::<cudarc::driver::sys::CUDA_ARRAY_DESCRIPTOR>());
const _: () = assert!(size_of::<Description3d>() == size_of::<cudarc::driver::sys::CUDA_ARRAY3D_DESCRIPTOR>());

/// An array.
pub struct Array {
    /// Its `CUarray`.
    pub handle: usize,
    description: Description3d,
    address: u64,
    device: usize,
}

/// The live arrays.
pub static ARRAYS: Handles<Array> = Handles::new(12, Error::INVALID_HANDLE);

impl Array {
    /// Bytes of an element.
    pub fn element(&self) -> usize {
        self.description.element().unwrap_or(1)
    }

    /// Bytes of a row.
    fn row(&self) -> usize {
        self.description.width * self.element()
    }

    /// A part of it, as an end of a copy: bytes, rows and slices from its corner, and how many.
    pub fn place(&self, from: [usize; 3], size: [usize; 3]) -> Result<Place> {
        let whole = [self.row(), self.description.height.max(1), self.description.depth.max(1)];
        if (0..3).any(|dimension| from[dimension] + size[dimension] > whole[dimension]) {
            return Err(Error::INVALID_VALUE);
        }
        let (pitch, slice) = (whole[0], whole[0] * whole[1]);
        let address = self.address + (from[0] + from[1] * pitch + from[2] * slice) as u64;
        Ok(Place { address, declared: Declared::Device, pitch: pitch as u64, slice: slice as u64 })
    }
}

impl Description3d {
    fn element(&self) -> Result<usize> {
        let channel = match self.format {
            1 | 8 => 1,
            2 | 9 | 0x10 => 2,
            3 | 10 | 0x20 => 4,
            _ => return Err(Error::NOT_SUPPORTED),
        };
        if matches!(self.channels, 1 | 2 | 4) {
            Ok(channel * self.channels as usize)
        } else {
            Err(Error::INVALID_VALUE)
        }
    }
}

fn create(call: &Call, out: Out<usize>, description: Description3d) -> Result {
    if out.is_null() || description.width == 0 {
        return Err(Error::INVALID_VALUE);
    }
    // Layers, cubes and surfaces are other shapes.
    if description.flags != 0 {
        return Err(Error::NOT_SUPPORTED);
    }
    let context = call.context()?;
    let rows = description.height.max(1) * description.depth.max(1);
    let address = alloc::take(&context, (description.width * description.element()? * rows) as u64)?;
    let device = context.ordinal();
    out.put(ARRAYS.insert(|handle| Array { handle, description, address, device }).handle)
}

driver! {
    [ctx] "cuArrayCreate" 3020 cuArrayCreate_v2(call, out: Out<usize>, description: In<Description>) {
        let Description { width, height, format, channels } = description.get()?;
        create(call, out, Description3d { width, height, depth: 0, format, channels, flags: 0 })
    }

    [ctx] "cuArray3DCreate" 3020 cuArray3DCreate_v2(call, out: Out<usize>, description: In<Description3d>) {
        create(call, out, description.get()?)
    }

    [ctx] "cuArrayGetDescriptor" 3020 cuArrayGetDescriptor_v2(_call, out: Out<Description>, array: usize) {
        let Description3d { width, height, format, channels, .. } = ARRAYS.get(array)?.description;
        out.put(Description { width, height, format, channels })
    }

    [ctx] "cuArray3DGetDescriptor" 3020 cuArray3DGetDescriptor_v2(_call, out: Out<Description3d>, array: usize) {
        out.put(ARRAYS.get(array)?.description)
    }

    [ctx] "cuArrayDestroy" 2000 cuArrayDestroy(_call, array: usize) {
        let array = ARRAYS.remove(array)?;
        wait_for_device(array.device);
        crate::accounting::forget(array.address, |origin| origin == Origin::Alloc).map(drop)
    }
}
