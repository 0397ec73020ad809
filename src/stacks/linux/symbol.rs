//! The name and the line of a call.

/// A call, or a call that the compiler has inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) function: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    /// Where the call is in the program's file, if that has no debug information: `program+0x1234`.
    pub(super) address: Option<String>,
    /// Whether it is code of the program, not of a shared library.
    pub(super) is_program: bool,
    /// Whether the symbol table has no name for it: `function` is then an address.
    pub(super) is_unnamed: bool,
}
