//! The driver's functions on devices.

use crate::driver;
use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use std::ffi::c_char;

/// The UUID as CUDA's struct.
pub type Uuid = [u8; 16];

fn write_text(text: &str, out: Out<c_char>, room: i32) -> Result {
    let room = usize::try_from(room).map_err(|_| Error::INVALID_VALUE)?;
    if out.is_null() || room == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let shown = text.bytes().take(room - 1).chain([0]).map(|byte| byte as c_char);
    out.fill(shown, room);
    Ok(())
}

driver! {
    [init] "cuDeviceGet" 2000 cuDeviceGet(_call, out: Out<i32>, ordinal: i32) {
        driver::device(ordinal)?;
        out.put(ordinal)
    }

    [init] "cuDeviceGetCount" 2000 cuDeviceGetCount(_call, count: Out<i32>) {
        count.put(driver::devices().len() as i32)
    }

    [init] "cuDeviceGetName" 2000 cuDeviceGetName(_call, name: Out<c_char>, room: i32, device: i32) {
        write_text(driver::device(device)?.description().name(), name, room)
    }

    [init] "cuDeviceGetUuid" 9020 cuDeviceGetUuid(_call, uuid: Out<Uuid>, device: i32) {
        uuid.put(driver::device(device)?.description().uuid())
    }

    [init] "cuDeviceGetUuid" 11040 cuDeviceGetUuid_v2(_call, uuid: Out<Uuid>, device: i32) {
        uuid.put(driver::device(device)?.description().uuid())
    }

    [init] "cuDeviceGetLuid" 10000 cuDeviceGetLuid(_call, _luid: Out<c_char>, _mask: Out<u32>, _device: i32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuDeviceGetAttribute" 2000 cuDeviceGetAttribute(_call, out: Out<i32>, attribute: u32, device: i32) {
        out.put(driver::device(device)?.attribute(attribute)?)
    }

    [init] "cuDeviceComputeCapability" 2000 cuDeviceComputeCapability(
        _call, major: Out<i32>, minor: Out<i32>, device: i32,
    ) {
        let device = driver::device(device)?;
        major.put(device.attribute(75)?)?;
        minor.put(device.attribute(76)?)
    }

    [init] "cuDeviceTotalMem" 3020 cuDeviceTotalMem_v2(_call, bytes: Out<usize>, device: i32) {
        bytes.put(driver::device(device)?.total() as usize)
    }

    [init] "cuDeviceGetPCIBusId" 4010 cuDeviceGetPCIBusId(_call, id: Out<c_char>, room: i32, device: i32) {
        write_text(&driver::device(device)?.description().pci_text(), id, room)
    }

    [init] "cuDeviceGetByPCIBusId" 4010 cuDeviceGetByPCIBusId(_call, out: Out<i32>, id: In<c_char>) {
        let id = id.text()?;
        let wanted = |device: &&crate::device::Device| {
            let full = device.description().pci_text();
            let id = id.to_ascii_uppercase();
            id.ends_with(&full) || full.ends_with(&id)
        };
        let device = driver::devices().iter().find(wanted).ok_or(Error::INVALID_DEVICE)?;
        out.put(device.ordinal as i32)
    }

    [init] "cuDeviceCanAccessPeer" 4000 cuDeviceCanAccessPeer(_call, can: Out<i32>, device: i32, peer: i32) {
        driver::device(device)?;
        driver::device(peer)?;
        can.put((device != peer) as i32)
    }

    [init] "cuDeviceGetP2PAttribute" 8000 cuDeviceGetP2PAttribute(
        _call, value: Out<i32>, attribute: u32, source: i32, destination: i32,
    ) {
        driver::device(source)?;
        driver::device(destination)?;
        if source == destination {
            return Err(Error::INVALID_DEVICE);
        }
        value.put(matches!(attribute, 2..=4) as i32)
    }

    [ctx] "cuMemGetInfo" 3020 cuMemGetInfo_v2(call, free: Out<usize>, total: Out<usize>) {
        let context = call.context()?;
        let device = context.device();
        free.opt(device.free() as usize);
        total.opt(device.total() as usize);
        Ok(())
    }
}
