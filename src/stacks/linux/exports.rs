//! The functions that a library exports.

use std::fs::File;

use object::{Object, ObjectSymbol, ReadCache};

use super::modules::openable_path;

/// The functions that a library exports, sorted by their start.
#[derive(Debug, Default)]
pub(super) struct Exports(Vec<Function>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    /// An address in the library's file.
    start: u64,
    /// 0 if the library does not state it, for instance for a function written in assembly.
    size: u64,
    name: String,
}

impl Exports {
    /// The most bytes of a function that does not state its size: what follows it may be a function
    /// that is not exported.
    const MAX_UNSIZED: u64 = 64;

    /// Reads the functions of the library that is mapped at an address. Only the tables of symbols
    /// are read, because the file may be large.
    pub(super) fn open(address: u64) -> Self {
        let file = openable_path(address).and_then(|path| File::open(path).ok());
        let mut functions = file.map(read).unwrap_or_default();
        functions.sort();
        Self(functions)
    }

    /// Returns the function that contains an address; `None` if the library does not export it.
    ///
    /// The address is one that a call returns to: never the function's first, and possibly the one
    /// after its last.
    pub(super) fn at(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|function| function.start < address);
        let start = self.0.get(after.checked_sub(1)?)?.start;
        let aliases = self.0[..after].iter().rev().take_while(|function| function.start == start);
        let size = |size| if size == 0 { Self::MAX_UNSIZED } else { size };
        let matching = aliases.filter(|function| address - start <= size(function.size));
        // The shortest of several names: `nanosleep`, not `__nanosleep`.
        matching.map(|function| function.name.as_str()).min_by_key(|name| name.len())
    }
}

fn read(file: File) -> Vec<Function> {
    let cache = ReadCache::new(file);
    let Ok(file) = object::File::parse(&cache) else { return Vec::new() };
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let functions = symbols
        .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text);
    let function = |symbol: object::Symbol<'_, '_, _>| {
        let name = symbol.name().ok()?.to_owned();
        Some(Function { start: symbol.address(), size: symbol.size(), name })
    };
    functions.filter_map(function).collect()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_not_exported_has_no_name() {
        let function = |start, size, name: &str| Function { start, size, name: name.into() };
        let functions = Exports(vec![
            function(10, 5, "__sleep"),
            function(10, 5, "sleep"),
            function(40, 0, "from_assembler"),
            function(200, 4, "last"),
        ]);
        let addresses = [10, 11, 15, 16, 41, 104, 105, 200, 201, 205];
        let named = addresses.map(|address| functions.at(address));
        let (sleep, assembler, last) = (Some("sleep"), Some("from_assembler"), Some("last"));
        let expected = [None, sleep, sleep, None, assembler, assembler, None, None, last, None];
        assert_eq!(named, expected);
    }
}
