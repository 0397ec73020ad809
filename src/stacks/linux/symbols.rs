//! Resolves addresses to names and lines. Slow for a new address; results are cached.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSymbol};

/// A call, or a call that the compiler has inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) function: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    /// Whether it is code of the program, not of a shared library.
    pub(super) is_program: bool,
    /// Whether the symbol table has no name for it: `function` is then an address.
    pub(super) is_unnamed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Symbols {
    cache: HashMap<u64, Vec<Symbol>>,
    libraries: HashMap<PathBuf, Functions>,
}

/// The functions that a library exports, sorted by their start.
#[derive(Debug, Default)]
struct Functions(Vec<Function>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    /// An address in the library's file.
    start: u64,
    /// 0 if the library does not state it, for instance for a function written in assembly.
    size: u64,
    name: String,
}

// === impl Symbols ===

impl Symbols {
    /// The number of addresses that are cached.
    const MAX_CACHED: usize = 16_384;

    /// Makes `backtrace` list the libraries now, without reading any of them: that takes the
    /// loader's lock, which a thread that is reported later may hold.
    pub(super) fn new() -> Self {
        backtrace::resolve(std::ptr::null_mut(), |_| ());
        Self::default()
    }

    /// Returns the calls at an address, innermost first: more than one if functions were inlined.
    /// `module` is what [`Unwinder::module_of`](super::unwind::Unwinder::module_of) returns.
    pub(super) fn resolve(
        &mut self,
        address: u64,
        module: Option<(&Path, bool, u64)>,
    ) -> &[Symbol] {
        if self.cache.len() >= Self::MAX_CACHED {
            self.cache.clear();
        }
        if !self.cache.contains_key(&address) {
            let symbols = match module {
                Some((path, false, bias)) => vec![self.exported(address, path, bias)],
                _ => in_program(address),
            };
            self.cache.insert(address, symbols);
        }
        self.cache.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Returns the path of a source file of the standard library, as its line tables state it.
    pub(super) fn file_in_std(&mut self) -> Option<String> {
        let function: fn(std::time::Duration) = std::thread::sleep;
        self.resolve(function as usize as u64 + 1, None).last()?.file.clone()
    }

    /// Returns the function that a library exports. Its debug information is not read: it may be
    /// tens of megabytes, and its source lines are of no use to the application's author.
    fn exported(&mut self, address: u64, path: &Path, bias: u64) -> Symbol {
        if !self.libraries.contains_key(path) {
            self.libraries.insert(path.to_owned(), Functions::read(path));
        }
        let name =
            self.libraries.get(path).and_then(|library| library.at(address.wrapping_sub(bias)));
        let file = || {
            path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        Symbol { function: name.map_or_else(file, str::to_owned), ..Symbol::default() }
    }
}

/// Returns the calls at an address of the program.
fn in_program(address: u64) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        let name = symbol.name().map(|name| without_closure(&format!("{name:#}")));
        symbols.push(Symbol {
            is_unnamed: name.is_none(),
            function: name.unwrap_or_else(|| format!("{address:#x}")),
            file: symbol.filename().map(|file| file.to_string_lossy().into_owned()),
            line: symbol.lineno().filter(|&line| line != 0),
            is_program: true,
        });
    });
    if symbols.is_empty() {
        symbols.push(Symbol {
            function: format!("{address:#x}"),
            is_program: true,
            is_unnamed: true,
            ..Symbol::default()
        });
    }
    symbols
}

/// Returns the name of a function as its author wrote it: an async function is compiled to a
/// closure, which is part of the name.
fn without_closure(name: &str) -> String {
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    let end = name.rfind("::{async_fn#").filter(|_| name.ends_with('}'));
    end.map_or(name, |end| &name[..end]).to_owned()
}

// === impl Functions ===

impl Functions {
    fn read(path: &Path) -> Self {
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

    /// Returns the function that contains an address; `None` if the library does not export it.
    ///
    /// The address is one that a call returns to: never the function's first, and possibly the one
    /// after its last.
    fn at(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|function| function.start < address);
        let start = self.0.get(after.checked_sub(1)?)?.start;
        let aliases = self.0[..after].iter().rev().take_while(|function| function.start == start);
        let matching =
            aliases.filter(|function| function.size == 0 || address - start <= function.size);
        // The shortest of several names: `nanosleep`, not `__nanosleep`.
        matching.map(|function| function.name.as_str()).min_by_key(|name| name.len())
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_async_function_has_no_closure() {
        assert_eq!(
            without_closure("demo::blocking::report::{{closure}}"),
            "demo::blocking::report"
        );
        assert_eq!(
            without_closure("demo::blocking::report::{async_fn#0}"),
            "demo::blocking::report"
        );
        assert_eq!(without_closure("demo::main"), "demo::main");
        assert_eq!(without_closure("{async_fn#0}"), "{async_fn#0}");
    }

    #[test]
    fn an_address_in_this_program_has_a_line() {
        let mut found = None;
        let mut symbols = Symbols::new();
        backtrace::trace(|frame| {
            let calls = symbols.resolve(frame.ip().addr() as u64, None);
            let own = calls
                .iter()
                .find(|call| call.file.as_ref().is_some_and(|file| file.ends_with("symbols.rs")));
            found = found.take().or_else(|| own.cloned());
            found.is_none()
        });
        let found = found.unwrap();
        assert!(found.line.is_some() && found.is_program, "{found:?}");
    }

    #[test]
    fn a_library_function_has_its_exported_name() {
        let mut modules = super::super::modules::Modules::default();
        modules.refresh();
        let address = (libc::getpid as *const ()).addr() as u64 + 1;
        let module = modules.find(address).unwrap();
        let mut symbols = Symbols::new();
        let call = symbols.resolve(address, Some((module.path(), false, module.bias())));
        assert_eq!((call[0].function.as_str(), call[0].is_program), ("getpid", false));
    }

    #[test]
    fn a_function_that_is_not_exported_has_no_name() {
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
