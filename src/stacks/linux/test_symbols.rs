//! Symbols for the tests of this folder.

use super::symbol::Symbol;

pub(super) const STD: &str = "/rustc/abc/library/";
pub(super) const DEPENDENCY: &str = "/home/me/.cargo/registry/src/index.crates.io-1/";

pub(super) fn symbol(function: &str, file: &str, line: u32) -> Symbol {
    let line = (line != 0).then_some(line);
    Symbol { file: Some(file.into()), line, ..named(function) }
}

pub(super) fn std(function: &str, file: &str) -> Symbol {
    symbol(function, &format!("{STD}{file}"), 9)
}

pub(super) fn dependency(function: &str, file: &str) -> Symbol {
    symbol(function, &format!("{DEPENDENCY}{file}"), 9)
}

pub(super) fn application(function: &str, line: u32) -> Symbol {
    symbol(function, "/home/me/app/src/main.rs", line)
}

/// A function of the program without a line.
pub(super) fn named(function: &str) -> Symbol {
    Symbol { function: function.into(), is_program: true, ..Symbol::default() }
}

/// A function of the program without a name.
pub(super) fn unnamed() -> Symbol {
    Symbol { is_unnamed: true, ..named("0x10") }
}

pub(super) fn native(function: &str) -> Symbol {
    Symbol { function: function.into(), ..Symbol::default() }
}
