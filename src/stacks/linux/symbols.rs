//! From addresses to names and lines. Slow the first time, and remembered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSymbol};

/// One call, or one that the compiler has put into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) function: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    /// It is the program's own code, not a shared library's.
    pub(super) is_program: bool,
}

#[derive(Debug, Default)]
pub(super) struct Symbols {
    known: HashMap<u64, Vec<Symbol>>,
    libraries: HashMap<PathBuf, Functions>,
}

/// The functions that a library exports, by where they begin in its file.
#[derive(Debug, Default)]
struct Functions(Vec<Function>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    start: u64,
    /// 0 where the library does not tell, as of what was written in assembler.
    size: u64,
    name: String,
}

impl Symbols {
    /// Addresses that are remembered.
    const MOST: usize = 16_384;

    /// Has `backtrace` list the libraries now, and read none of them: the loader's lock, which that takes, may be held by the thread
    /// that is to be reported later.
    pub(super) fn new() -> Self {
        backtrace::resolve(std::ptr::null_mut(), |_| ());
        Self::default()
    }

    /// The calls at an address, innermost first: more than one where functions were inlined. `module` says where the address is, as
    /// [`Unwinder::module_of`](super::unwind::Unwinder::module_of) does.
    pub(super) fn resolve(&mut self, address: u64, module: Option<(&Path, bool, u64)>) -> &[Symbol] {
        if self.known.len() >= Self::MOST {
            self.known.clear();
        }
        if !self.known.contains_key(&address) {
            let symbols = match module {
                Some((path, false, bias)) => vec![self.exported(address, path, bias)],
                _ => in_program(address),
            };
            self.known.insert(address, symbols);
        }
        self.known.get(&address).map_or(&[], Vec::as_slice)
    }

    /// A library's own debug information is not read: it may be tens of megabytes, and its lines are nobody's to mend.
    fn exported(&mut self, address: u64, path: &Path, bias: u64) -> Symbol {
        if !self.libraries.contains_key(path) {
            self.libraries.insert(path.to_owned(), Functions::of(path));
        }
        let name = self.libraries.get(path).and_then(|library| library.at(address.wrapping_sub(bias)));
        let file = || path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Symbol { function: name.map_or_else(file, str::to_owned), ..Symbol::default() }
    }
}

fn in_program(address: u64) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        let name = symbol.name().map(|name| plain(&format!("{name:#}")));
        symbols.push(Symbol {
            function: name.unwrap_or_else(|| format!("{address:#x}")),
            file: symbol.filename().map(|file| file.to_string_lossy().into_owned()),
            line: symbol.lineno().filter(|&line| line != 0),
            is_program: true,
        });
    });
    if symbols.is_empty() {
        symbols.push(Symbol { function: format!("{address:#x}"), is_program: true, ..Symbol::default() });
    }
    symbols
}

/// A function's name as its author wrote it: an async function is compiled to a closure, which shows in the name.
fn plain(name: &str) -> String {
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    let end = name.rfind("::{async_fn#").filter(|_| name.ends_with('}'));
    end.map_or(name, |end| &name[..end]).to_owned()
}

// === impl Functions ===

impl Functions {
    fn of(path: &Path) -> Self {
        let mut functions = Vec::new();
        if let Ok(bytes) = std::fs::read(path) {
            if let Ok(file) = object::File::parse(&*bytes) {
                let symbols = file.symbols().chain(file.dynamic_symbols());
                let named = symbols.filter(|symbol| symbol.is_definition()).filter_map(|symbol| {
                    let is_function = symbol.kind() == object::SymbolKind::Text;
                    let name = symbol.name().ok().filter(|_| is_function)?.to_owned();
                    Some(Function { start: symbol.address(), size: symbol.size(), name })
                });
                functions.extend(named);
            }
        }
        functions.sort();
        Self(functions)
    }

    /// The function that an address lies in, which is never its first, and may be the one behind its last: a call returns there. `None`
    /// for one that the library does not export.
    fn at(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|function| function.start < address);
        let start = self.0.get(after.checked_sub(1)?)?.start;
        let same = self.0[..after].iter().rev().take_while(|function| function.start == start);
        let around = same.filter(|function| function.size == 0 || address - start <= function.size);
        // Of several names for one function, the shortest: `nanosleep`, not `__nanosleep`.
        around.map(|function| function.name.as_str()).min_by_key(|name| name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn async_functions_have_their_own_names() {
        assert_eq!(plain("demo::sick::report::{{closure}}"), "demo::sick::report");
        assert_eq!(plain("demo::sick::report::{async_fn#0}"), "demo::sick::report");
        assert_eq!(plain("demo::main"), "demo::main");
        assert_eq!(plain("{async_fn#0}"), "{async_fn#0}");
    }

    #[test]
    fn an_address_in_this_program_is_a_line_of_this_file() {
        let mut found = None;
        let mut symbols = Symbols::new();
        backtrace::trace(|frame| {
            let calls = symbols.resolve(frame.ip().addr() as u64, None);
            let own = calls.iter().find(|call| call.file.as_ref().is_some_and(|file| file.ends_with("symbols.rs")));
            found = found.take().or_else(|| own.cloned());
            found.is_none()
        });
        let found = found.unwrap();
        assert!(found.line.is_some() && found.is_program, "{found:?}");
    }

    #[test]
    fn a_library_s_function_has_its_exported_name() {
        let mut modules = super::super::modules::Modules::default();
        modules.refresh();
        let address = (libc::getpid as *const ()).addr() as u64 + 1;
        let module = modules.find(address).unwrap();
        let mut symbols = Symbols::new();
        let call = symbols.resolve(address, Some((module.path(), false, module.bias())));
        assert_eq!((call[0].function.as_str(), call[0].is_program), ("getpid", false));
    }

    #[test]
    fn what_a_library_does_not_export_is_not_called_by_its_neighbour_s_name() {
        let function = |start, size, name: &str| Function { start, size, name: name.into() };
        let functions = Functions(vec![
            function(10, 5, "__sleep"),
            function(10, 5, "sleep"),
            function(40, 0, "from_assembler"),
            function(60, 4, "last"),
        ]);
        let named = [10, 11, 15, 16, 41, 60, 61, 65].map(|address| functions.at(address));
        let (sleep, assembler, last) = (Some("sleep"), Some("from_assembler"), Some("last"));
        assert_eq!(named, [None, sleep, sleep, None, assembler, assembler, last, None]);
    }
}
