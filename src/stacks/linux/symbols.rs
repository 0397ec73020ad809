//! Resolves addresses to names and lines. Slow for a new address; results are cached.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::exports::Exports;
use super::modules::ModuleAt;
use super::program::Program;
use super::symbol::Symbol;

pub(super) struct Symbols {
    /// The most memory that the debug information may need, in bytes.
    max_memory: u64,
    cache: HashMap<u64, Vec<Symbol>>,
    /// Read when first needed.
    program: Option<Program>,
    libraries: HashMap<PathBuf, Exports>,
}

impl Symbols {
    /// The number of addresses that are cached.
    const MAX_CACHED: usize = 16_384;

    pub(super) fn new(max_memory: u64) -> Self {
        Self { max_memory, cache: HashMap::new(), program: None, libraries: HashMap::new() }
    }

    /// Returns the calls at an address, innermost first: more than one if functions were inlined.
    pub(super) fn resolve(&mut self, address: u64, module: Option<ModuleAt<'_>>) -> &[Symbol] {
        if self.cache.len() >= Self::MAX_CACHED {
            self.cache.clear();
        }
        if !self.cache.contains_key(&address) {
            let symbols = match module {
                Some(module) if module.is_own => self.in_program(address, module),
                Some(module) => vec![self.exported(address, module)],
                None => vec![unnamed(format!("{address:#x}"))],
            };
            self.cache.insert(address, symbols);
        }
        self.cache.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Returns the program, once an address in it has been resolved.
    pub(super) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Returns the calls at an address of the program. The address is the one after the call; the
    /// one that is shown is inside it, so that debug information has its line there.
    fn in_program(&mut self, address: u64, module: ModuleAt<'_>) -> Vec<Symbol> {
        let in_file = address.wrapping_sub(module.bias);
        let open = || Program::open(address, self.max_memory);
        let program = self.program.get_or_insert_with(open);
        let call = in_file.wrapping_sub(1);
        let mut symbols = program.resolve(call);
        let address = format!("{}+{call:#x}", file_name(module.path));
        match symbols.last_mut() {
            None => {
                symbols.push(Symbol { address: Some(address.clone()), ..unnamed(address) });
            }
            Some(symbol) if !program.has_debug_info() => symbol.address = Some(address),
            Some(_) => {}
        }
        symbols
    }

    /// Returns the function that a library exports. Its debug information is not read: it may be
    /// tens of megabytes, and its source lines are of no use to the application's author.
    fn exported(&mut self, address: u64, module: ModuleAt<'_>) -> Symbol {
        if !self.libraries.contains_key(module.path) {
            self.libraries.insert(module.path.to_owned(), Exports::open(address));
        }
        let library = self.libraries.get(module.path);
        let name = library.and_then(|library| library.at(address.wrapping_sub(module.bias)));
        let function = name.map_or_else(|| file_name(module.path), str::to_owned);
        Symbol { function, ..Symbol::default() }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn unnamed(function: String) -> Symbol {
    Symbol { function, is_program: true, is_unnamed: true, ..Symbol::default() }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::CaptureFailure;
    use crate::stacks::linux::modules::Modules;

    fn modules() -> Modules {
        let mut modules = Modules::default();
        modules.refresh();
        modules
    }

    #[test]
    fn an_address_in_this_program_has_a_line() {
        let here = an_address_in_this_program_has_a_line as fn() as usize as u64 + 1;
        let (modules, mut symbols) = (modules(), Symbols::new(u64::MAX));
        let calls = symbols.resolve(here, modules.at(here));
        let call = calls.last().unwrap();
        assert!(call.file.as_ref().unwrap().ends_with("symbols.rs") && call.line.is_some());
        assert!(call.function.ends_with("an_address_in_this_program_has_a_line"), "{call:?}");
        assert!(call.is_program && !call.is_unnamed);
    }

    #[test]
    fn debug_information_over_the_limit_is_not_read() {
        let here = an_address_in_this_program_has_a_line as fn() as usize as u64 + 1;
        let failure = |max_memory| {
            let (modules, mut symbols) = (modules(), Symbols::new(max_memory));
            let calls = symbols.resolve(here, modules.at(here)).to_vec();
            (symbols.program().unwrap().failure(), calls[0].is_unnamed)
        };
        assert_eq!(failure(1 << 30), (None, false));
        assert_eq!(failure(1 << 10), (Some(CaptureFailure::TooLarge), true));
    }

    #[test]
    fn an_address_without_a_name_is_relative_to_its_module() {
        let (modules, mut symbols) = (modules(), Symbols::new(u64::MAX));
        let here = an_address_in_this_program_has_a_line as fn() as usize as u64;
        let module = modules.at(here).unwrap();
        let call = &symbols.resolve(module.bias + 0x7000_0002, Some(module))[0];
        assert!(call.is_unnamed && call.function.starts_with("tower_stall-"), "{call:?}");
        assert!(call.function.ends_with("+0x70000001"), "{call:?}");
        assert_eq!(call.address.as_ref(), Some(&call.function));
    }

    #[test]
    fn a_library_function_has_its_exported_name() {
        let (modules, mut symbols) = (modules(), Symbols::new(u64::MAX));
        let address = (libc::getpid as *const ()).addr() as u64 + 1;
        let call = &symbols.resolve(address, modules.at(address))[0];
        let is_static = cfg!(target_feature = "crt-static");
        assert_eq!((call.function.as_str(), call.is_program), ("getpid", is_static));
    }
}
