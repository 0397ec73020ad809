//! The call frame information of one module: for each instruction, where the caller's registers
//! are. `gimli` parses and interprets it.

use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EhFrameOffset, Encoding, EndianSlice, Expression,
    FrameDescriptionEntry, NativeEndian, ParsedEhFrameHdr, Register, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection, UnwindTableRow,
};

use super::elf::Image;
use super::{arch, memory};

type Slice<'t> = EndianSlice<'t, NativeEndian>;

/// The size of an address, in bytes.
const ADDRESS_SIZE: u8 = 8;

/// Copies of `.eh_frame` and `.eh_frame_hdr`. The originals may be unloaded at any time.
pub(super) struct CfiTables {
    eh_frame_hdr: Vec<u8>,
    eh_frame: Vec<u8>,
    bases: BaseAddresses,
}

/// The row of the tables for one instruction.
pub(super) struct CfiRow<'t> {
    row: &'t UnwindTableRow<usize>,
    function: FrameDescriptionEntry<Slice<'t>>,
    eh_frame: EhFrame<Slice<'t>>,
    bases: &'t BaseAddresses,
}

// === impl CfiTables ===

impl CfiTables {
    /// Copies the tables of a loaded image. Returns `None` if it has none that can be searched.
    pub(super) fn load(image: &Image) -> Option<Self> {
        let copy = |range: Range<u64>| {
            if image.contains(&range) { memory::copy(range) } else { None }
        };
        let range = image.eh_frame_hdr.clone()?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(range.start);
        let eh_frame_hdr = copy(range)?;
        let range = eh_frame_range(&parse(&eh_frame_hdr, &bases)?, &bases)?;
        let bases = bases.set_eh_frame(range.start);
        Some(Self { eh_frame_hdr, eh_frame: copy(range)?, bases })
    }

    /// Returns the row for the instruction at an address.
    pub(super) fn row<'t>(
        &'t self,
        address: u64,
        context: &'t mut UnwindContext<usize>,
    ) -> Option<CfiRow<'t>> {
        let mut eh_frame = EhFrame::new(&self.eh_frame, NativeEndian);
        eh_frame.set_vendor(arch::CFI_VENDOR);
        let eh_frame_hdr = parse(&self.eh_frame_hdr, &self.bases)?;
        // Not `fde_for_address`, which overflows if a damaged table points before the section.
        let entry = eh_frame_hdr.table()?.lookup(address, &self.bases).ok()?.direct().ok()?;
        let start = eh_frame_hdr.eh_frame_ptr().direct().ok()?;
        let offset = EhFrameOffset(usize::try_from(entry.checked_sub(start)?).ok()?);
        let function =
            eh_frame.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset).ok()?;
        if !function.contains(address) {
            return None;
        }
        let row =
            function.unwind_info_for_address(&eh_frame, &self.bases, context, address).ok()?;
        Some(CfiRow { row, function, eh_frame, bases: &self.bases })
    }
}

fn parse<'t>(eh_frame_hdr: &'t [u8], bases: &BaseAddresses) -> Option<ParsedEhFrameHdr<Slice<'t>>> {
    EhFrameHdr::new(eh_frame_hdr, NativeEndian).parse(bases, ADDRESS_SIZE).ok()
}

/// Returns the range of `.eh_frame`: from its start, which `.eh_frame_hdr` states, to the end of
/// the last entry that the search table lists.
fn eh_frame_range(
    eh_frame_hdr: &ParsedEhFrameHdr<Slice<'_>>,
    bases: &BaseAddresses,
) -> Option<Range<u64>> {
    let start = eh_frame_hdr.eh_frame_ptr().direct().ok()?;
    let table = eh_frame_hdr.table()?;
    let (mut eh_frame, mut last) = (table.iter(bases), start);
    while let Some((_, entry)) = eh_frame.next().ok()? {
        last = last.max(entry.direct().ok()?);
    }
    let len = u32::from_ne_bytes(memory::array(last)?);
    Some(start..last.checked_add(u64::from(len))?.checked_add(4)?)
}

// === impl CfiRow ===

impl<'t> CfiRow<'t> {
    /// Returns the rule for the canonical frame address, which is the stack pointer before the
    /// call.
    pub(super) fn cfa(&self) -> &CfaRule<usize> {
        self.row.cfa()
    }

    /// Returns the rule for the caller's value of a register.
    pub(super) fn register(&self, register: Register) -> RegisterRule<usize> {
        self.row.register(register)
    }

    pub(super) fn expression(
        &self,
        expression: &UnwindExpression<usize>,
    ) -> Option<Expression<Slice<'t>>> {
        expression.get(&self.eh_frame).ok()
    }

    /// Returns the code of the function.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn function(&self) -> Range<u64> {
        self.function.initial_address()..self.function.end_address()
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.function.cie().encoding()
    }

    /// Returns the function's code from the first instruction whose CFA is relative to `register`:
    /// the instruction before has set that register.
    pub(super) fn pcs_with_cfa_register(&self, register: Register) -> Option<Range<u64>> {
        let mut context = UnwindContext::new();
        let mut rows = self.function.rows(&self.eh_frame, self.bases, &mut context).ok()?;
        while let Some(row) = rows.next_row().ok()? {
            let is_relative = matches!(
                row.cfa(),
                CfaRule::RegisterAndOffset { register: found, .. } if *found == register
            );
            if is_relative {
                return Some(row.start_address()..self.function.end_address());
            }
        }
        None
    }

    /// Returns whether the kernel has built this frame to deliver a signal. Its caller was then
    /// interrupted at any instruction, and has made no call.
    pub(super) fn is_signal_frame(&self) -> bool {
        self.function.is_signal_trampoline()
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;

    /// The tables of this program, and an address of its code.
    fn tables() -> (&'static CfiTables, u64) {
        static TABLES: OnceLock<CfiTables> = OnceLock::new();
        let here = tables as fn() -> (&'static CfiTables, u64) as usize as u64;
        let tables = TABLES.get_or_init(|| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let starts = maps
                .lines()
                .filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
            let images = starts.filter_map(Image::read);
            let own = images.into_iter().find(|image| image.has_code_at(here)).unwrap();
            CfiTables::load(&own).unwrap()
        });
        (tables, here)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

        #[test]
        fn property_damaged_tables_have_rows_or_none(
            damage in proptest::collection::vec((any::<bool>(), any::<u32>(), any::<u8>()), 1..64),
            from in 0_u64..4096,
        ) {
            let (tables, here) = tables();
            let bases = tables.bases.clone();
            let (mut eh_frame_hdr, mut eh_frame) =
                (tables.eh_frame_hdr.clone(), tables.eh_frame.clone());
            for (is_header, place, byte) in damage {
                let table = if is_header { &mut eh_frame_hdr } else { &mut eh_frame };
                let place = place as usize % table.len().min(1 << 16);
                table[place] = byte;
            }
            let damaged = CfiTables { eh_frame_hdr, eh_frame, bases };
            let mut context = UnwindContext::new();
            for address in (0..64).map(|step| here - 2048 + from + step * 61) {
                if let Some(row) = damaged.row(address, &mut context) {
                    let _ = (row.cfa(), row.encoding(), row.is_signal_frame());
                    let _ = row.pcs_with_cfa_register(Register(6));
                }
            }
        }
    }
}
