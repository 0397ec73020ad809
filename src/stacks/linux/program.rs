//! The names and lines of the program itself, from the file that is mapped.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use addr2line::{Frame, Loader, LoaderReader, demangle_auto};
use object::{Object, ObjectSymbol, ReadCache};

use super::modules::openable_path;
use super::names::{is_bare, paths_of_inlined, readable};
use super::symbol::Symbol;

/// The start and the size of a function in the file.
type Extent = (u64, u64);

/// The debug information and the symbol table of the program.
pub(super) struct Program {
    /// `None` if its file cannot be opened.
    loader: Option<Loader>,
    /// The functions in the symbol table, sorted. `loader` names the one
    /// that starts before an address, however far.
    functions: Vec<Extent>,
    build_id: Option<String>,
}

impl Program {
    /// Opens the program that is mapped at an address. The file is mapped, not read.
    pub(super) fn open(address: u64) -> Self {
        let path = openable_path(address);
        let loader = path.as_ref().and_then(|path| Loader::new(path).ok());
        let (functions, build_id) = path.and_then(|path| read(&path)).unwrap_or_default();
        Self { loader, functions, build_id }
    }

    /// Returns whether its file could be opened.
    pub(super) fn is_open(&self) -> bool {
        self.loader.is_some()
    }

    pub(super) fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// Returns the calls at an address in the file, innermost first. None of them is known if the
    /// program is stripped.
    pub(super) fn resolve(&self, address: u64) -> Vec<Symbol> {
        let Some(loader) = &self.loader else { return Vec::new() };
        let of_table = loader.find_symbol_info(address);
        let of_table = of_table.filter(|symbol| self.is_in_function(address, symbol.address()));
        let of_table = of_table.map(|symbol| demangle_auto(symbol.name().into(), None));
        let (mut symbols, mut names) = (Vec::new(), Vec::new());
        if let Ok(mut frames) = loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
                symbols.push(symbol(&frame, name.as_deref()));
                names.push(name.map(Cow::into_owned).unwrap_or_default());
            }
        }
        for (symbol, path) in symbols.iter_mut().zip(paths_of_inlined(&names)) {
            if let Some(path) = path {
                symbol.function = path;
            }
        }
        if symbols.is_empty() && of_table.is_some() {
            symbols.push(Symbol { is_program: true, is_unnamed: true, ..Symbol::default() });
        }
        // The last one is the function that the address is in, and that the symbol table names, with
        // its path, which line tables lack.
        if let (Some(symbol), Some(name)) = (symbols.last_mut(), of_table) {
            if symbol.is_unnamed || is_bare(&symbol.function) {
                symbol.function = readable(&name);
                symbol.is_unnamed = false;
            }
        }
        // A unit without a name is the compiler's.
        symbols.retain(|symbol| !symbol.is_unnamed);
        symbols
    }

    /// Returns whether an address is inside a function that starts at `start`. One of size 0 is
    /// written in assembly.
    fn is_in_function(&self, address: u64, start: u64) -> bool {
        let first = self.functions.partition_point(|function| function.0 < start);
        let same = self.functions[first..].iter().take_while(|function| function.0 == start);
        same.map(|function| function.1).any(|size| size == 0 || address - start < size)
    }
}

/// Reads the functions of a file, and the id that the linker has given to it.
fn read(path: &Path) -> Option<(Vec<Extent>, Option<String>)> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let functions = symbols.filter(ObjectSymbol::is_definition);
    let mut functions: Vec<_> = functions.map(|symbol| (symbol.address(), symbol.size())).collect();
    functions.sort_unstable();
    let build_id = file.build_id().ok().flatten();
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
    Some((functions, build_id.map(hex)))
}

fn symbol(frame: &Frame<'_, LoaderReader<'_>>, name: Option<&str>) -> Symbol {
    let location = frame.location.as_ref();
    Symbol {
        is_unnamed: name.is_none(),
        function: name.map_or_else(String::new, readable),
        file: location.and_then(|location| location.file).map(str::to_owned),
        line: location.and_then(|location| location.line).filter(|&line| line != 0),
        is_program: true,
    }
}
