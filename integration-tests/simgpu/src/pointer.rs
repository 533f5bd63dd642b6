//! What the driver says about an address.

use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use crate::physical::Place;
use crate::va::{self, AddressSpace, Backing, Mapping, Origin};
use std::ffi::c_void;

/// One answer, in the size the attribute has.
enum Answer {
    Word(u32),
    Wide(u64),
    Byte(u8),
}

impl Answer {
    fn write(&self, out: Out<c_void>) -> Result {
        if out.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller gave room for this attribute's type.
        unsafe {
            match self {
                Answer::Word(value) => out.raw().cast::<u32>().write_unaligned(*value),
                Answer::Wide(value) => out.raw().cast::<u64>().write_unaligned(*value),
                Answer::Byte(value) => out.raw().cast::<u8>().write_unaligned(*value),
            }
        }
        Ok(())
    }
}

fn ordinal(mapping: &Mapping) -> i32 {
    match &mapping.backing {
        Backing::Physical(memory, _) => match memory.place {
            Place::Device(device) => device as i32,
            Place::Host(_) => 0,
        },
        _ => 0,
    }
}

/// The range a pointer belongs to: a reservation for mapped memory, else the allocation.
fn range(space: &AddressSpace, mapping: &Mapping) -> (u64, u64) {
    match mapping.origin {
        Origin::Vmm(start) => space.reservation(start).unwrap_or((mapping.start, mapping.len)),
        _ => (mapping.start, mapping.len),
    }
}

fn answer(space: &AddressSpace, address: u64, attribute: u32) -> Result<Answer> {
    let Some(mapping) = space.find(address) else {
        return match (space.reservation(address), attribute) {
            (Some((start, _)), 11) => Ok(Answer::Wide(start)),
            (Some((_, len)), 12) => Ok(Answer::Wide(len)),
            (Some(_), 13) => Ok(Answer::Byte(0)),
            _ => Err(Error::INVALID_VALUE),
        };
    };
    let host = matches!(mapping.backing, Backing::Host) || mapping.host_rights != 0;
    let pool = if let Origin::Pool(pool) = mapping.origin { pool as u64 } else { 0 };
    Ok(match attribute {
        1 => Answer::Wide(mapping.context as u64),
        2 => Answer::Word(if mapping.on_host() && mapping.origin != Origin::Managed { 1 } else { 2 }),
        3 => Answer::Wide(address),
        4 if host => Answer::Wide(address),
        6 => Answer::Word(0),
        7 => Answer::Wide(mapping.id),
        8 => Answer::Byte((mapping.origin == Origin::Managed) as u8),
        9 => Answer::Word(ordinal(mapping) as u32),
        10 => Answer::Byte((mapping.origin == Origin::Alloc) as u8),
        11 => Answer::Wide(range(space, mapping).0),
        12 => Answer::Wide(range(space, mapping).1),
        13 => Answer::Byte(1),
        14 => Answer::Wide(match &mapping.backing {
            Backing::Physical(memory, _) => memory.handle_types.into(),
            _ => 0,
        }),
        15 => Answer::Byte(0),
        16 => Answer::Word(3),
        17 => Answer::Wide(pool),
        18 => Answer::Wide(mapping.len),
        19 => Answer::Wide(mapping.start),
        20 => Answer::Wide(mapping.id),
        _ => return Err(Error::INVALID_VALUE),
    })
}

/// What is known of an unknown address: nothing, which is not an error when several attributes are asked for at once.
fn nothing(attribute: u32) -> Result<Answer> {
    Ok(match attribute {
        2 | 6 => Answer::Word(0),
        9 => Answer::Word(-2i32 as u32),
        8 | 10 | 13 | 15 => Answer::Byte(0),
        16 => Answer::Word(0),
        1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Answer::Wide(0),
        _ => return Err(Error::INVALID_VALUE),
    })
}

driver! {
    [ctx] "cuPointerGetAttribute" 4000 cuPointerGetAttribute(
        _call, out: Out<c_void>, attribute: u32, address: u64,
    ) {
        answer(&va::read(), address, attribute)?.write(out)
    }

    [ctx] "cuPointerGetAttributes" 7000 cuPointerGetAttributes(
        _call, count: u32, attributes: In<u32>, out: In<Out<c_void>>, address: u64,
    ) {
        let space = va::read();
        let wanted = attributes.list(count as usize)?;
        for (attribute, out) in wanted.into_iter().zip(out.list(count as usize)?) {
            answer(&space, address, attribute).or_else(|_| nothing(attribute))?.write(out)?;
        }
        Ok(())
    }

    [ctx] "cuPointerSetAttribute" 6000 cuPointerSetAttribute(
        _call, _value: In<c_void>, attribute: u32, address: u64,
    ) {
        let known = va::read().find(address).is_some();
        if known && attribute == 6 { Ok(()) } else { Err(Error::INVALID_VALUE) }
    }

    [ctx] "cuMemGetAddressRange" 3020 cuMemGetAddressRange_v2(
        _call, start: Out<u64>, len: Out<usize>, address: u64,
    ) {
        let space = va::read();
        let mapping = space.find(address).ok_or(Error::NOT_FOUND)?;
        start.opt(mapping.start);
        len.opt(mapping.len as usize);
        Ok(())
    }

    [ctx] "cuMemRangeGetAttribute" 8000 cuMemRangeGetAttribute(
        _call, _out: Out<c_void>, _size: usize, _attribute: u32, _start: u64, _len: usize,
    ) {
        Err(Error::NOT_SUPPORTED)
    }
}
