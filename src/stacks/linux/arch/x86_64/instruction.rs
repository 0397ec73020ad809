//! Decodes as much of an instruction as it takes to follow code: its length, and its operands if
//! they are a jump's target or the stack pointer.
//!
//! Not with `iced-x86`, whose tables take up about a megabyte.

use super::call::operand_len;

/// The most bytes of an instruction.
pub(super) const MAX_LENGTH: usize = 15;

/// The register that is encoded as 4.
pub(super) const RSP: u8 = 4;

/// An instruction. What it does not have is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    /// With 0x0f00 added if it is of the second table. Zero if it has vector operands: none of
    /// those jumps, or changes the stack pointer.
    pub(super) opcode: u16,
    rex: u8,
    modrm: u8,
    sib: u8,
    displacement: i32,
    /// 0 if it has more than 32 bits.
    immediate: i32,
    pub(super) len: u64,
}

/// The operands that follow an opcode.
struct Operands {
    has_modrm: bool,
    immediate_len: usize,
}

struct Reader<'c> {
    code: &'c [u8],
    at: usize,
}

// === impl Instruction ===

impl Instruction {
    /// Decodes the first instruction of `code`. Returns `None` if it is not valid, or not known.
    pub(super) fn decode(code: &[u8]) -> Option<Self> {
        let mut reader = Reader { code, at: 0 };
        let (mut is_short, mut rex, mut byte) = (false, 0, reader.byte()?);
        while matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) {
            is_short |= byte == 0x66;
            byte = reader.byte()?;
        }
        if matches!(byte, 0x40..=0x4f) {
            rex = byte;
            byte = reader.byte()?;
        }
        let (opcode, operands) = match byte {
            0x0f => {
                let second = reader.byte()?;
                (0x0f00 | u16::from(second), two_byte_operands(second, &mut reader)?)
            }
            0x62 | 0xc4 | 0xc5 => (0, vector_operands(byte, &mut reader)?),
            _ => (u16::from(byte), one_byte_operands(byte, rex, is_short)?),
        };
        let mut instruction = Self { opcode, rex, ..Self::default() };
        instruction.read(&operands, is_short, &mut reader)?;
        instruction.len = reader.at as u64;
        Some(instruction)
    }

    fn read(&mut self, operands: &Operands, is_short: bool, reader: &mut Reader<'_>) -> Option<()> {
        let mut immediate_len = operands.immediate_len;
        if operands.has_modrm {
            self.modrm = reader.byte()?;
            let operand = reader.bytes(operand_len(self.modrm, reader.peek()))?;
            let has_sib = self.mode() != 3 && self.modrm & 7 == 4;
            if has_sib {
                self.sib = *operand.first()?;
            }
            self.displacement = signed(&operand[usize::from(has_sib)..]);
            // `test` with an immediate, in the group of `not` and `neg`.
            if matches!(self.opcode, 0xf6 | 0xf7) && self.extension() < 2 {
                immediate_len = if self.opcode == 0xf6 { 1 } else { immediate_32(is_short) };
            }
        }
        self.immediate = signed(reader.bytes(immediate_len)?);
        Some(())
    }

    fn mode(&self) -> u8 {
        self.modrm >> 6
    }

    /// Returns the three bits of ModRM that extend some opcodes.
    pub(super) fn extension(&self) -> u8 {
        self.modrm >> 3 & 7
    }

    /// Returns the register in the middle of ModRM, by its encoding.
    pub(super) fn register(&self) -> u8 {
        self.extension() | (self.rex & 4) << 1
    }

    /// Returns the operand at the end of ModRM, if it is a register.
    pub(super) fn register_operand(&self) -> Option<u8> {
        (self.mode() == 3).then_some(self.modrm & 7 | (self.rex & 1) << 3)
    }

    /// Returns the register that the last bits of the opcode are.
    pub(super) fn opcode_register(&self) -> u8 {
        (self.opcode & 7) as u8 | (self.rex & 1) << 3
    }

    /// Returns the register and the displacement of an operand in memory that has no index.
    pub(super) fn base(&self) -> Option<(u8, i64)> {
        let base = match self.modrm & 7 {
            4 if self.sib >> 3 & 7 == RSP && self.rex & 2 == 0 => self.sib & 7,
            4 => return None,
            base => base,
        };
        let is_plain = matches!(self.mode(), 1 | 2) || self.mode() == 0 && base != 5;
        is_plain.then_some((base | (self.rex & 1) << 3, i64::from(self.displacement)))
    }

    pub(super) fn immediate(&self) -> i64 {
        i64::from(self.immediate)
    }

    /// Returns whether it changes the stack pointer by other means than `push` and `pop`.
    pub(super) fn writes_rsp(&self) -> bool {
        let (is_operand, is_register) =
            (self.register_operand() == Some(RSP), self.register() == RSP);
        match self.opcode {
            // Arithmetic, but not `cmp`; and `mov`.
            0x01..0x38 if self.opcode & 7 == 1 => is_operand,
            0x01..0x38 if self.opcode & 7 == 3 => is_register,
            0x81 | 0x83 => is_operand && self.extension() != 7,
            0x87 => is_operand || is_register,
            0x89 | 0xc1 | 0xc7 | 0xd1 | 0xd3 => is_operand,
            0xf7 => is_operand && matches!(self.extension(), 2 | 3),
            0xff => is_operand && self.extension() < 2,
            0x63 | 0x69 | 0x6b | 0x8b | 0x8d | 0x0f40..=0x0f4f => is_register,
            _ => false,
        }
    }
}

// === impl Reader ===

impl<'c> Reader<'c> {
    fn peek(&self) -> Option<&'c u8> {
        self.code.get(self.at)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn bytes(&mut self, len: usize) -> Option<&'c [u8]> {
        let bytes = self.code.get(self.at..self.at + len)?;
        self.at += len;
        Some(bytes)
    }
}

const fn operands(has_modrm: bool, immediate_len: usize) -> Operands {
    Operands { has_modrm, immediate_len }
}

/// Returns the length of an immediate that the prefix 0x66 makes short.
fn immediate_32(is_short: bool) -> usize {
    if is_short { 2 } else { 4 }
}

fn one_byte_operands(opcode: u8, rex: u8, is_short: bool) -> Option<Operands> {
    let immediate_32 = immediate_32(is_short);
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => operands(true, 0),
            4 => operands(false, 1),
            5 => operands(false, immediate_32),
            _ => return None,
        },
        0x68 | 0xa9 => operands(false, immediate_32),
        0x69 | 0x81 | 0xc7 => operands(true, immediate_32),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => operands(false, 1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => operands(true, 1),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => {
            operands(true, 0)
        }
        0xa0..=0xa3 => operands(false, 8),
        0xb8..=0xbf if rex & 8 != 0 => operands(false, 8),
        0xb8..=0xbf => operands(false, immediate_32),
        0xc2 => operands(false, 2),
        0xc8 => operands(false, 3),
        0xe8 | 0xe9 => operands(false, 4),
        0x40..=0x4f | 0x60..=0x62 | 0x64..=0x67 | 0x82 | 0x9a | 0xce | 0xd4..=0xd6 | 0xea => {
            return None;
        }
        _ => operands(false, 0),
    })
}

/// Returns the operands of an opcode that follows 0x0f, and skips the third byte of one that has
/// three.
fn two_byte_operands(opcode: u8, reader: &mut Reader<'_>) -> Option<Operands> {
    Some(match opcode {
        0x38 => reader.byte().map(|_| operands(true, 0))?,
        0x3a => reader.byte().map(|_| operands(true, 1))?,
        0x80..=0x8f => operands(false, 4),
        0x05..=0x0b | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => {
            operands(false, 0)
        }
        0xa4 | 0xac | 0xba => operands(true, 1),
        _ => operands(true, vector_immediate_len(opcode)),
    })
}

/// Returns the operands of an instruction with the prefix VEX or EVEX, and skips to them.
fn vector_operands(prefix: u8, reader: &mut Reader<'_>) -> Option<Operands> {
    let first = reader.byte()?;
    let table = match prefix {
        0xc5 => 1,
        0xc4 => first & 0x1f,
        _ => first & 7,
    };
    reader.bytes(match prefix {
        0xc5 => 0,
        0xc4 => 1,
        _ => 2,
    })?;
    let opcode = reader.byte()?;
    Some(match table {
        1 => operands(opcode != 0x77, vector_immediate_len(opcode)),
        2 => operands(true, 0),
        3 => operands(true, 1),
        _ => return None,
    })
}

fn vector_immediate_len(opcode: u8) -> usize {
    usize::from(matches!(opcode, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6))
}

/// Returns the value of up to four bytes; 0 for others.
fn signed(bytes: &[u8]) -> i32 {
    match *bytes {
        [a] => i32::from(a as i8),
        [a, b] => i32::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn decode(code: &[u8]) -> Instruction {
        let instruction = Instruction::decode(code).unwrap();
        assert_eq!(instruction.len, code.len() as u64, "{instruction:x?}");
        instruction
    }

    #[test]
    fn the_operands_of_an_instruction_are_decoded() {
        let add = decode(&[0x48, 0x81, 0xc4, 0x00, 0x01, 0x00, 0x00]); // add rsp, 0x100
        assert_eq!((add.register_operand(), add.immediate()), (Some(RSP), 0x100));
        let lea = decode(&[0x48, 0x8d, 0x64, 0x24, 0xd8]); // lea rsp, [rsp - 40]
        assert_eq!((lea.register(), lea.base()), (RSP, Some((RSP, -40))));
        let lea = decode(&[0x48, 0x8d, 0x65, 0xd8]); // lea rsp, [rbp - 40]
        assert_eq!((lea.register(), lea.base()), (RSP, Some((5, -40))));
        let lea = decode(&[0x48, 0x8d, 0x64, 0x04, 0x08]); // lea rsp, [rsp + rax + 8]
        assert_eq!((lea.register(), lea.base()), (RSP, None));
        let lea = decode(&[0x48, 0x8d, 0x25, 0, 0, 0, 0]); // lea rsp, [rip]
        assert_eq!((lea.register(), lea.base()), (RSP, None));
        assert_eq!(decode(&[0x41, 0x5d]).opcode_register(), 13); // pop r13
        assert_eq!(decode(&[0x0f, 0x85, 0xfe, 0xff, 0xff, 0xff]).immediate(), -2); // jne
        assert_eq!(decode(&[0x66, 0x81, 0xfb, 0, 0x10]).immediate(), 0x1000); // cmp bx, 0x1000
    }

    #[test]
    fn a_write_to_the_stack_pointer_is_recognized() {
        let writes: [&[u8]; 6] = [
            &[0x48, 0x83, 0xe4, 0xf0], // and rsp, -16
            &[0x48, 0x89, 0xcc],       // mov rsp, rcx
            &[0x48, 0x8b, 0x24, 0x24], // mov rsp, [rsp]
            &[0x48, 0x29, 0xc4],       // sub rsp, rax
            &[0x48, 0x87, 0xe0],       // xchg rax, rsp
            &[0x48, 0x0f, 0x44, 0xe0], // cmove rsp, rax
        ];
        for code in writes {
            assert!(decode(code).writes_rsp(), "{code:x?}");
        }
        let others: [&[u8]; 6] = [
            &[0x48, 0x89, 0xe7],             // mov rdi, rsp
            &[0x48, 0x83, 0xfc, 0x10],       // cmp rsp, 16
            &[0x48, 0x39, 0xc4],             // cmp rsp, rax
            &[0x49, 0x89, 0xc4],             // mov r12, rax
            &[0x48, 0x89, 0x04, 0x24],       // mov [rsp], rax
            &[0x4c, 0x8b, 0x64, 0x24, 0x08], // mov r12, [rsp + 8]
        ];
        for code in others {
            assert!(!decode(code).writes_rsp(), "{code:x?}");
        }
    }

    /// Decodes each function of this program from its start: the last instruction ends at its end.
    #[test]
    fn the_functions_of_this_program_are_decoded() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = object::File::parse(&*program).unwrap();
        let mut decoded = 0;
        for symbol in program.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            let section =
                symbol.section_index().and_then(|index| program.section_by_index(index).ok());
            let code = section.and_then(|section| {
                section.data_range(symbol.address(), symbol.size()).ok().flatten()
            });
            let (Some(code), mut at) = (code, 0) else { continue };
            while at < code.len() {
                let rest = &code[at..];
                let instruction = Instruction::decode(&rest[..rest.len().min(MAX_LENGTH)]);
                let Some(instruction) = instruction else {
                    panic!(
                        "{:?} {at:#x}: {:x?}",
                        symbol.name(),
                        &rest[..rest.len().min(MAX_LENGTH)]
                    )
                };
                at += instruction.len as usize;
                decoded += 1;
            }
        }
        assert!(decoded > 100_000, "{decoded}");
    }

    proptest! {
        #[test]
        fn property_any_code_is_decoded_or_refused(code: Vec<u8>) {
            if let Some(instruction) = Instruction::decode(&code) {
                prop_assert!((1..=code.len() as u64).contains(&instruction.len));
                let _ = (instruction.base(), instruction.writes_rsp());
            }
        }
    }
}
