//! The names and lines of the program itself, from the file that is mapped.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use addr2line::{Frame, Loader, LoaderReader, demangle_auto};
use object::{CompressionFormat, Object, ObjectSection, ObjectSymbol, ReadCache};

use super::debug_file::{self, hex};
use super::modules::openable_path;
use super::names::{is_bare, paths_of_inlined, readable};
use super::symbol::Symbol;
use crate::stacks::CaptureFailure;

/// The start and the size of a function in the file.
type Extent = (u64, u64);

/// The debug information and the symbol table of the program.
pub(super) struct Program {
    loader: Result<Loader, CaptureFailure>,
    file: ProgramFile,
}

/// What is known of the file of a program before its debug information is read.
#[derive(Debug, Default)]
struct ProgramFile {
    /// The functions in the symbol table, sorted. The loader names the one that starts before an
    /// address, however far.
    functions: Vec<Extent>,
    build_id: Option<String>,
    has_debug_info: bool,
    /// About how much memory the loader needs, without the pages of the file, which the kernel takes
    /// back when it needs them.
    memory: u64,
}

impl Program {
    /// Opens the program that is mapped at an address, or the file with its debug information, if
    /// that has been split from it. The file is mapped, not read. Its debug information is not read
    /// if that needs more than `max_memory` bytes.
    pub(super) fn open(address: u64, max_memory: u64) -> Self {
        let path = openable_path(address).map(|path| debug_file::find(&path).unwrap_or(path));
        let file = path.as_ref().and_then(|path| ProgramFile::read(path));
        let loader = match (path, &file) {
            (Some(_), Some(file)) if file.memory > max_memory => Err(CaptureFailure::TooLarge),
            (Some(path), _) => Loader::new(path).map_err(|_| CaptureFailure::NoFile),
            (None, _) => Err(CaptureFailure::NoFile),
        };
        Self { loader, file: file.unwrap_or_default() }
    }

    /// Returns why its debug information is not known.
    pub(super) fn failure(&self) -> Option<CaptureFailure> {
        self.loader.as_ref().err().copied()
    }

    /// Returns whether debug information can be read.
    pub(super) fn has_debug_info(&self) -> bool {
        self.loader.is_ok() && self.file.has_debug_info
    }

    pub(super) fn build_id(&self) -> Option<&str> {
        self.file.build_id.as_deref()
    }

    /// Returns the calls at an address in the file, innermost first. None of them is known if the
    /// program is stripped.
    pub(super) fn resolve(&self, address: u64) -> Vec<Symbol> {
        let Ok(loader) = &self.loader else { return Vec::new() };
        let of_table = loader.find_symbol_info(address);
        let of_table =
            of_table.filter(|symbol| self.file.is_in_function(address, symbol.address()));
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
}

impl ProgramFile {
    /// For each entry of the symbol table, its own and the loader's: the address, the size, the name.
    const BYTES_PER_SYMBOL: u64 = 64;
    /// What is kept of the debug information: the ranges of its units, and what has been asked for.
    const KEPT_PART: u64 = 8;

    fn read(path: &Path) -> Option<Self> {
        let cache = ReadCache::new(File::open(path).ok()?);
        let file = object::File::parse(&cache).ok()?;
        let symbols = file.symbols().chain(file.dynamic_symbols());
        let functions = symbols.filter(ObjectSymbol::is_definition);
        let mut functions: Vec<_> =
            functions.map(|symbol| (symbol.address(), symbol.size())).collect();
        functions.sort_unstable();
        let build_id = file.build_id().ok().flatten();
        let has_debug_info = file.section_by_name(".debug_info").is_some();
        let sections = file.sections().map(|section| Self::section_memory(&section)).sum::<u64>();
        let memory = sections + functions.len() as u64 * Self::BYTES_PER_SYMBOL;
        Some(Self { functions, build_id: build_id.map(hex), has_debug_info, memory })
    }

    /// Returns about how much memory a section needs. One that is compressed is decompressed whole.
    fn section_memory<'a>(section: &impl ObjectSection<'a>) -> u64 {
        let Ok(name) = section.name() else { return 0 };
        let range = section.compressed_file_range();
        let is_compressed =
            range.as_ref().is_ok_and(|range| range.format != CompressionFormat::None);
        let size = range.map_or(0, |range| range.uncompressed_size);
        match name {
            _ if !name.starts_with(".debug_") && !name.starts_with(".zdebug_") => 0,
            ".debug_info" => size / Self::KEPT_PART + if is_compressed { size } else { 0 },
            _ if is_compressed => size,
            _ => 0,
        }
    }

    /// Returns whether an address is inside a function that starts at `start`. One of size 0 is
    /// written in assembly.
    fn is_in_function(&self, address: u64, start: u64) -> bool {
        let first = self.functions.partition_point(|function| function.0 < start);
        let same = self.functions[first..].iter().take_while(|function| function.0 == start);
        same.map(|function| function.1).any(|size| size == 0 || address - start < size)
    }
}

fn symbol(frame: &Frame<'_, LoaderReader<'_>>, name: Option<&str>) -> Symbol {
    let location = frame.location.as_ref();
    Symbol {
        is_unnamed: name.is_none(),
        function: name.map_or_else(String::new, readable),
        file: location.and_then(|location| location.file).map(str::to_owned),
        line: location.and_then(|location| location.line).filter(|&line| line != 0),
        is_program: true,
        ..Symbol::default()
    }
}
