//! The copies of rows and boxes.

use crate::array::ARRAYS;
use crate::copy::{Declared, Place, Shape};
use crate::copy_start::{SourceOrder, start};
use crate::edge::{Call, In, driver};
use crate::errors::{Error, Result};

/// `CU_MEMORYTYPE_ARRAY`
const ARRAY: u32 = 3;

/// One side of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Side2d {
    x: usize,
    y: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: usize,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2d {
    from: Side2d,
    to: Side2d,
    width: usize,
    height: usize,
}

/// One side of `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Side3d {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: usize,
    context: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`; only the meaning of one reserved word differs.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Copy3d {
    from: Side3d,
    to: Side3d,
    width: usize,
    height: usize,
    depth: usize,
}

const _: () = assert!(size_of::<Copy2d>() == size_of::<cudarc::driver::sys::CUDA_MEMCPY2D>());
const _: () = assert!(size_of::<Copy3d>() == size_of::<cudarc::driver::sys::CUDA_MEMCPY3D>());
const _: () = assert!(size_of::<Copy3d>() == size_of::<cudarc::driver::sys::CUDA_MEMCPY3D_PEER>());

fn base(memory_type: u32, host: u64, device: u64) -> Result<(u64, Declared)> {
    match memory_type {
        1 => Ok((host, Declared::Host)),
        2 => Ok((device, Declared::Device)),
        4 => Ok((device, Declared::Any)),
        _ => Err(Error::INVALID_VALUE),
    }
}

impl Side2d {
    fn place(&self, width: usize, height: usize) -> Result<Place> {
        if self.memory_type == ARRAY {
            return ARRAYS.get(self.array)?.place([self.x, self.y, 0], [width, height, 1]);
        }
        let (base, declared) = base(self.memory_type, self.host, self.device)?;
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        if pitch < width + self.x {
            return Err(Error::INVALID_VALUE);
        }
        let address = base + (self.y * pitch + self.x) as u64;
        Ok(Place { address, declared, pitch: pitch as u64, slice: 0 })
    }
}

impl Side3d {
    fn place(&self, width: usize, height: usize, depth: usize) -> Result<Place> {
        if self.memory_type == ARRAY {
            return ARRAYS.get(self.array)?.place([self.x, self.y, self.z], [width, height, depth]);
        }
        let (base, declared) = base(self.memory_type, self.host, self.device)?;
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.height == 0 { height } else { self.height };
        if pitch < width + self.x || rows < height + self.y || self.lod != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let address = base + ((self.z * rows + self.y) * pitch + self.x) as u64;
        Ok(Place { address, declared, pitch: pitch as u64, slice: (pitch * rows) as u64 })
    }

    fn of(place: &Place, shape: &Shape) -> Side3d {
        let memory_type = match place.declared {
            Declared::Host => 1,
            Declared::Device => 2,
            Declared::Any => 4,
        };
        let host = if memory_type == 1 { place.address } else { 0 };
        let device = if memory_type == 1 { 0 } else { place.address };
        let pitch = place.pitch.max(if shape.height == 1 { shape.width } else { 0 });
        let height = place.slice.checked_div(place.pitch).unwrap_or(1).max(1);
        Side3d { memory_type, host, device, pitch: pitch as usize, height: height as usize, ..Side3d::default() }
    }
}

impl Copy3d {
    /// The ends and the amount.
    pub fn parts(&self) -> Result<(Place, Place, Shape)> {
        let to = self.to.place(self.width, self.height, self.depth)?;
        let from = self.from.place(self.width, self.height, self.depth)?;
        let shape = Shape { width: self.width as u64, height: self.height as u64, depth: self.depth as u64 };
        Ok((to, from, shape))
    }

    /// The struct for a copy, as `cuGraphMemcpyNodeGetParams` shows it.
    pub fn of(request: &(Place, Place, Shape)) -> Copy3d {
        let (to, from, shape) = request;
        Copy3d {
            from: Side3d::of(from, shape),
            to: Side3d::of(to, shape),
            width: shape.width as usize,
            height: shape.height as usize,
            depth: shape.depth as usize,
        }
    }
}

fn rows(call: &Call, stream: Option<usize>, copy: In<Copy2d>) -> Result {
    let copy = copy.get()?;
    let to = copy.to.place(copy.width, copy.height)?;
    let from = copy.from.place(copy.width, copy.height)?;
    let shape = Shape { width: copy.width as u64, height: copy.height as u64, depth: 1 };
    let target = call.stream(stream.unwrap_or(0))?;
    start(&target, stream.is_none(), SourceOrder::Usual, to, from, shape)
}

fn boxes(call: &Call, stream: Option<usize>, copy: In<Copy3d>) -> Result {
    let (to, from, shape) = copy.get()?.parts()?;
    let target = call.stream(stream.unwrap_or(0))?;
    start(&target, stream.is_none(), SourceOrder::Usual, to, from, shape)
}

driver! {
    [ctx] "cuMemcpy2D" 3020 cuMemcpy2D_v2 | 7000 cuMemcpy2D_v2_ptds(call, copy: In<Copy2d>) {
        rows(call, None, copy)
    }

    [ctx] "cuMemcpy2DUnaligned" 3020 cuMemcpy2DUnaligned_v2 | 7000 cuMemcpy2DUnaligned_v2_ptds(
        call, copy: In<Copy2d>,
    ) {
        rows(call, None, copy)
    }

    [ctx] "cuMemcpy2DAsync" 3020 cuMemcpy2DAsync_v2 | 7000 cuMemcpy2DAsync_v2_ptsz(
        call, copy: In<Copy2d>, stream: usize,
    ) {
        rows(call, Some(stream), copy)
    }

    [ctx] "cuMemcpy3D" 3020 cuMemcpy3D_v2 | 7000 cuMemcpy3D_v2_ptds(call, copy: In<Copy3d>) {
        boxes(call, None, copy)
    }

    [ctx] "cuMemcpy3DAsync" 3020 cuMemcpy3DAsync_v2 | 7000 cuMemcpy3DAsync_v2_ptsz(
        call, copy: In<Copy3d>, stream: usize,
    ) {
        boxes(call, Some(stream), copy)
    }

    [ctx] "cuMemcpy3DPeer" 4000 cuMemcpy3DPeer | 7000 cuMemcpy3DPeer_ptds(call, copy: In<Copy3d>) {
        boxes(call, None, copy)
    }

    [ctx] "cuMemcpy3DPeerAsync" 4000 cuMemcpy3DPeerAsync | 7000 cuMemcpy3DPeerAsync_ptsz(
        call, copy: In<Copy3d>, stream: usize,
    ) {
        boxes(call, Some(stream), copy)
    }
}
