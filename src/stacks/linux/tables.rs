//! The unwinding tables of one module: how each of its functions has changed the registers, instruction by instruction.

use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, Expression, FrameDescriptionEntry,
    NativeEndian, ParsedEhFrameHdr, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
    UnwindTableRow,
};

use super::elf::Image;
use super::memory;

type Slice<'t> = EndianSlice<'t, NativeEndian>;

/// How wide an address is, in bytes.
const ADDRESS: u8 = 8;

/// Copies of `.eh_frame` and `.eh_frame_hdr`. The originals may be unloaded at any time.
pub(super) struct Tables {
    index: Vec<u8>,
    entries: Vec<u8>,
    bases: BaseAddresses,
}

/// What the tables say of one instruction.
pub(super) struct Rules<'t> {
    row: &'t UnwindTableRow<usize>,
    function: FrameDescriptionEntry<Slice<'t>>,
    entries: EhFrame<Slice<'t>>,
    bases: &'t BaseAddresses,
}

// === impl Tables ===

impl Tables {
    /// Copies the tables of a loaded image. `None` where it has none that can be searched.
    pub(super) fn load(image: &Image) -> Option<Self> {
        let copy = |place: Range<u64>| if image.contains(&place) { memory::copy(place) } else { None };
        let place = image.index.clone()?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(place.start);
        let index = copy(place)?;
        let place = entries_place(&parse(&index, &bases)?, &bases)?;
        let bases = bases.set_eh_frame(place.start);
        Some(Self { index, entries: copy(place)?, bases })
    }

    /// The rules for the instruction at an address.
    pub(super) fn rules<'t>(&'t self, address: u64, context: &'t mut UnwindContext<usize>) -> Option<Rules<'t>> {
        let entries = EhFrame::new(&self.entries, NativeEndian);
        let index = parse(&self.index, &self.bases)?;
        let function = index.table()?.fde_for_address(&entries, &self.bases, address, EhFrame::cie_from_offset).ok()?;
        let row = function.unwind_info_for_address(&entries, &self.bases, context, address).ok()?;
        Some(Rules { row, function, entries, bases: &self.bases })
    }
}

fn parse<'t>(index: &'t [u8], bases: &BaseAddresses) -> Option<ParsedEhFrameHdr<Slice<'t>>> {
    EhFrameHdr::new(index, NativeEndian).parse(bases, ADDRESS).ok()
}

/// Where the tables themselves lie: from where the index says to the end of the last entry it knows.
fn entries_place(index: &ParsedEhFrameHdr<Slice<'_>>, bases: &BaseAddresses) -> Option<Range<u64>> {
    let start = index.eh_frame_ptr().direct().ok()?;
    let table = index.table()?;
    let (mut entries, mut last) = (table.iter(bases), start);
    while let Some((_, entry)) = entries.next().ok()? {
        last = last.max(entry.direct().ok()?);
    }
    let len = u32::from_ne_bytes(memory::array(last)?);
    Some(start..last.checked_add(u64::from(len))?.checked_add(4)?)
}

// === impl Rules ===

impl<'t> Rules<'t> {
    /// How the canonical frame address comes about, which is the stack pointer before the call.
    pub(super) fn cfa(&self) -> &CfaRule<usize> {
        self.row.cfa()
    }

    /// How the caller's value of a register comes about.
    pub(super) fn register(&self, register: Register) -> RegisterRule<usize> {
        self.row.register(register)
    }

    pub(super) fn expression(&self, expression: &UnwindExpression<usize>) -> Option<Expression<Slice<'t>>> {
        expression.get(&self.entries).ok()
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.function.cie().encoding()
    }

    /// The function's code from where the tables begin to reckon from a register: there it has just been set.
    pub(super) fn reckoned_from(&self, register: Register) -> Option<Range<u64>> {
        let mut context = UnwindContext::new();
        let mut rows = self.function.rows(&self.entries, self.bases, &mut context).ok()?;
        while let Some(row) = rows.next_row().ok()? {
            if matches!(row.cfa(), CfaRule::RegisterAndOffset { register: found, .. } if *found == register) {
                return Some(row.start_address()..self.function.end_address());
            }
        }
        None
    }

    /// Whether a signal was delivered here: then what is above was interrupted anywhere and has made no call.
    pub(super) fn is_signal_frame(&self) -> bool {
        self.function.is_signal_trampoline()
    }
}
