//! The program headers of a loaded program or library, read from memory.

use std::ops::Range;

use object::elf::{FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64};
use object::pod::{bytes_of_slice, slice_from_bytes};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::memory;

const ENDIAN: object::LittleEndian = object::LittleEndian;
/// A real image has about ten segments.
const MAX_SEGMENTS: usize = 128;

type FileHeader = FileHeader64<object::LittleEndian>;
type ProgramHeader = ProgramHeader64<object::LittleEndian>;

/// A loaded program or library.
#[derive(Debug)]
pub(super) struct Image {
    /// What the loader has added to the addresses in the file.
    pub(super) bias: u64,
    /// Where the program starts, if it is one.
    pub(super) entry: u64,
    pub(super) code: Vec<Range<u64>>,
    /// From the first to the last address of its segments.
    pub(super) extent: Range<u64>,
    pub(super) eh_frame_hdr: Option<Range<u64>>,
}

/// A program header with its addresses in memory.
struct Segment {
    kind: u32,
    is_code: bool,
    addresses: Range<u64>,
}

// === impl Image ===

impl Image {
    /// Reads the headers of the image that was loaded at an address.
    pub(super) fn read(start: u64) -> Option<Self> {
        let (headers, entry) = headers(start)?;
        let first = headers
            .iter()
            .find(|header| header.p_type(ENDIAN) == PT_LOAD && header.p_offset(ENDIAN) == 0)?;
        let bias = start.wrapping_sub(first.p_vaddr(ENDIAN));
        let segments: Vec<_> =
            headers.iter().map(|header| Segment::new(header, bias)).collect::<Option<_>>()?;
        let loaded = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
        let eh_frame_hdr = segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME);
        Some(Self {
            bias,
            entry: entry.wrapping_add(bias),
            code: loaded()
                .filter(|segment| segment.is_code)
                .map(|segment| segment.addresses.clone())
                .collect(),
            extent: start..loaded().map(|segment| segment.addresses.end).max()?,
            eh_frame_hdr: eh_frame_hdr.map(|segment| segment.addresses.clone()),
        })
    }

    pub(super) fn contains(&self, addresses: &Range<u64>) -> bool {
        self.extent.start <= addresses.start && addresses.end <= self.extent.end
    }

    pub(super) fn has_code_at(&self, address: u64) -> bool {
        self.code.iter().any(|code| code.contains(&address))
    }
}

/// Copies the program headers of the image that was loaded at an address. Returns them with the
/// address at which it starts, if it is a program.
fn headers(start: u64) -> Option<(Vec<ProgramHeader>, u64)> {
    let header = memory::words(start, size_of::<FileHeader>())?;
    let header = FileHeader::parse(bytes_of_slice(&header)).ok()?;
    // Fails unless the image is in little-endian order.
    header.endian().ok()?;
    let count = usize::from(header.e_phnum(ENDIAN));
    let size = usize::from(header.e_phentsize(ENDIAN));
    if size != size_of::<ProgramHeader>() || count > MAX_SEGMENTS {
        return None;
    }
    let table = memory::words(start.checked_add(header.e_phoff(ENDIAN))?, count * size)?;
    let (headers, _) = slice_from_bytes(bytes_of_slice(&table), count).ok()?;
    Some((headers.to_vec(), header.e_entry(ENDIAN)))
}

// === impl Segment ===

impl Segment {
    /// Returns `None` if the header's size is not plausible.
    fn new(header: &ProgramHeader, bias: u64) -> Option<Self> {
        let start = header.p_vaddr(ENDIAN);
        let end = start.checked_add(header.p_memsz(ENDIAN))?;
        Some(Self {
            kind: header.p_type(ENDIAN),
            is_code: header.p_flags(ENDIAN) & PF_X != 0,
            addresses: start.wrapping_add(bias)..end.wrapping_add(bias),
        })
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The address of a copy of an image's headers that a test may change.
    fn address(words: &[u64]) -> u64 {
        words.as_ptr().addr() as u64
    }

    /// A file header and three program headers: code, data, and `.eh_frame_hdr`.
    fn headers() -> Vec<u64> {
        let segment = |kind: u64, flags: u64, offset, address, size| {
            [flags << 32 | kind, offset, address, address, size, size, 8]
        };
        let mut words = vec![0_u64; 8];
        words[0] = u64::from_ne_bytes(*b"\x7fELF\x02\x01\x01\0");
        // `e_phoff`, then `e_phentsize` and `e_phnum` behind `e_flags` and `e_ehsize`.
        words[4] = 64;
        words[6] = 64 << 32 | 56 << 48;
        words[7] = 3;
        words.extend(segment(u64::from(PT_LOAD), u64::from(PF_X), 0, 0x1000, 0x2000));
        words.extend(segment(u64::from(PT_LOAD), 0, 0x2000, 0x4000, 0x500));
        words.extend(segment(u64::from(PT_GNU_EH_FRAME), 0, 0x800, 0x1800, 0x100));
        words
    }

    #[test]
    fn the_addresses_of_an_image_are_relative_to_its_first_segment() {
        let words = headers();
        let (start, image) = (address(&words), Image::read(address(&words)).unwrap());
        assert_eq!(image.bias, start - 0x1000);
        assert_eq!(image.code.as_slice(), std::slice::from_ref(&(start..start + 0x2000)));
        assert_eq!(image.extent, start..start + 0x3500);
        assert_eq!(image.eh_frame_hdr, Some(start + 0x800..start + 0x900));
        assert!(image.has_code_at(start + 0x1fff) && !image.has_code_at(start + 0x2000));
        assert!(image.contains(&(start..start + 0x3500)));
        assert!(!image.contains(&(start..start + 0x3501)));
    }

    #[test]
    fn other_data_is_not_an_image() {
        let changed = |word: usize, value: u64| {
            let mut words = headers();
            words[word] = value;
            Image::read(address(&words))
        };
        assert!(changed(0, 0).is_none(), "no magic number");
        assert!(changed(0, u64::from_ne_bytes(*b"\x7fELF\x01\x01\x01\0")).is_none(), "32 bits");
        assert!(changed(0, u64::from_ne_bytes(*b"\x7fELF\x02\x02\x01\0")).is_none(), "big-endian");
        assert!(changed(4, u64::MAX).is_none(), "the table is not mapped");
        assert!(changed(6, 64 << 32 | 64 << 48).is_none(), "program headers of another size");
        assert!(changed(7, 1000).is_none(), "too many segments");
        assert!(changed(13, u64::MAX).is_none(), "a segment that is larger than the memory");
        assert!(Image::read(8).is_none(), "nothing is mapped");
    }

    proptest! {
        #[test]
        fn property_damaged_headers_are_read_or_refused(
            damage in proptest::collection::vec((0_usize..29, any::<u64>()), 1..4),
        ) {
            let mut words = headers();
            damage.into_iter().for_each(|(word, value)| words[word] = value);
            if let Some(image) = Image::read(address(&words)) {
                let _ = (image.has_code_at(0), image.contains(&(0..u64::MAX)));
            }
        }
    }
}
