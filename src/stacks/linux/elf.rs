//! What a loaded program or library says of itself in memory.

use std::ops::Range;

use super::memory;

const MAGIC: [u8; 4] = *b"\x7fELF";
const HEADER: usize = 64;
const SEGMENT: usize = 56;
/// Real ones have about ten.
const MOST_SEGMENTS: u16 = 128;

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;

/// A loaded program or library.
#[derive(Debug)]
pub(super) struct Image {
    /// What was added to the addresses in the file.
    pub(super) bias: u64,
    /// Where its code is.
    pub(super) code: Vec<Range<u64>>,
    /// From the first to the last address that it takes up.
    pub(super) extent: Range<u64>,
    /// Where the index of its unwinding tables is.
    pub(super) index: Option<Range<u64>>,
}

/// One entry of the program headers.
struct Segment {
    kind: u32,
    is_code: bool,
    offset: u64,
    /// Where it lies, before the bias is added.
    addresses: Range<u64>,
}

// === impl Image ===

impl Image {
    /// Reads the headers of the image that was loaded at an address.
    pub(super) fn read(start: u64) -> Option<Self> {
        let segments = Segment::read_all(start)?;
        let first = segments.iter().find(|segment| segment.kind == PT_LOAD && segment.offset == 0)?;
        let bias = start.wrapping_sub(first.addresses.start);
        let loaded = || segments.iter().filter(|segment| segment.kind == PT_LOAD).map(|segment| segment.at(bias));
        let index = segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME);
        Some(Self {
            bias,
            code: segments.iter().filter(|segment| segment.is_code).map(|segment| segment.at(bias)).collect(),
            extent: start..loaded().map(|addresses| addresses.end).max()?,
            index: index.map(|segment| segment.at(bias)),
        })
    }

    pub(super) fn contains(&self, addresses: &Range<u64>) -> bool {
        self.extent.start <= addresses.start && addresses.end <= self.extent.end
    }

    pub(super) fn has_code_at(&self, address: u64) -> bool {
        self.code.iter().any(|code| code.contains(&address))
    }
}

// === impl Segment ===

impl Segment {
    fn read_all(start: u64) -> Option<Vec<Self>> {
        let header = memory::array::<HEADER>(start)?;
        let (table, size, count) = (u64_at(&header, 32)?, u16_at(&header, 54)?, u16_at(&header, 56)?);
        if !header.starts_with(&MAGIC) || usize::from(size) != SEGMENT || count > MOST_SEGMENTS {
            return None;
        }
        let table = start.checked_add(table)?;
        let bytes = memory::copy(table..table.checked_add(u64::from(size) * u64::from(count))?)?;
        bytes.chunks_exact(SEGMENT).map(Self::parse).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, address) = (u32_at(bytes, 0)?, u64_at(bytes, 16)?);
        Some(Self {
            kind,
            is_code: kind == PT_LOAD && u32_at(bytes, 4)? & PF_X != 0,
            offset: u64_at(bytes, 8)?,
            addresses: address..address.checked_add(u64_at(bytes, 40)?)?,
        })
    }

    fn at(&self, bias: u64) -> Range<u64> {
        self.addresses.start.wrapping_add(bias)..self.addresses.end.wrapping_add(bias)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
