//! The program and the libraries that are mapped into this process, from `/proc/self/maps`.
//!
//! Not from `dl_iterate_phdr`: it takes the loader's lock, which the stalled thread may hold, for
//! instance in `dlopen`. And not with the crate `procfs`: the parser is one function, and the
//! fields that it reads are the ones needed here.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cfi::CfiTables;
use super::elf::Image;

/// The library that the kernel maps into every process.
const VDSO: &str = "[vdso]";
/// What the kernel appends to the path of a file that has been replaced or removed.
const DELETED: &[u8] = b" (deleted)";

/// All modules as of the last refresh; none before the first.
#[derive(Default)]
pub(super) struct Modules(Vec<Module>);

/// A program or library.
pub(super) struct Module {
    /// Its first mapping, which identifies it.
    mapping: Mapping,
    image: Image,
    /// Read when first needed. Most modules are never on a stack.
    cfi: OnceCell<Option<CfiTables>>,
}

/// The module that contains an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModuleAt<'a> {
    pub(super) path: &'a Path,
    /// Whether this crate is part of it. It is the program, unless the service is itself a library.
    pub(super) is_own: bool,
    /// What the loader has added to the addresses in its file.
    pub(super) bias: u64,
}

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    is_code: bool,
    offset: u64,
    /// Identifies the file, even if another one has its path by now.
    inode: u64,
    path: PathBuf,
}

// === impl Modules ===

impl Modules {
    /// Returns the module that has code at an address.
    pub(super) fn find(&self, address: u64) -> Option<&Module> {
        self.0.iter().find(|module| module.image.has_code_at(address))
    }

    pub(super) fn at(&self, address: u64) -> Option<ModuleAt<'_>> {
        let module = self.find(address)?;
        let (path, is_own) = (module.path(), module.is_own());
        Some(ModuleAt { path, is_own, bias: module.image.bias })
    }

    /// Lists the modules again, and returns whether they have changed. Those that are still mapped
    /// keep their tables.
    pub(super) fn refresh(&mut self) -> bool {
        let found = read();
        if found
            .iter()
            .map(|module| &module.mapping)
            .eq(self.0.iter().map(|module| &module.mapping))
        {
            return false;
        }
        let mut known = std::mem::replace(&mut self.0, found);
        for module in &mut self.0 {
            if let Some(same) = known.iter_mut().find(|known| known.mapping == module.mapping) {
                std::mem::swap(module, same);
            }
        }
        true
    }
}

/// Returns a path at which the file that is mapped at an address can be opened, whatever lies at its
/// own path by now: a deployment replaces the program's file, an upgrade that of a library.
pub(super) fn openable_path(address: u64) -> Option<PathBuf> {
    const PROGRAM: &str = "/proc/self/exe";
    let mapping = mappings().into_iter().find(|mapping| mapping.addresses.contains(&address))?;
    if !mapping.is_deleted() {
        return Some(mapping.path);
    }
    if std::fs::read_link(PROGRAM).is_ok_and(|path| path == mapping.path) {
        return Some(PROGRAM.into());
    }
    // Requires a capability.
    let Range { start, end } = mapping.addresses;
    let path = PathBuf::from(format!("/proc/self/map_files/{start:x}-{end:x}"));
    File::open(&path).is_ok().then_some(path)
}

fn mappings() -> Vec<Mapping> {
    let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
    maps.split(|&byte| byte == b'\n').filter_map(Mapping::parse).collect()
}

/// Reads the modules that are mapped.
fn read() -> Vec<Module> {
    let mappings = mappings();
    let images = mappings.iter().filter(|mapping| mapping.may_begin_module());
    images.filter_map(|first| Module::read(first, &mappings)).collect()
}

// === impl Module ===

impl Module {
    /// Returns `None` if no module begins there, or if the file is mapped only to be read, as
    /// `addr2line` does with the program.
    fn read(first: &Mapping, mappings: &[Mapping]) -> Option<Self> {
        let mut image = Image::read(first.addresses.start)?;
        let is_mapped = |code: &Range<u64>| {
            mappings.iter().any(|mapping| mapping.is_code_of(first, code.start))
        };
        image.code.retain(is_mapped);
        let mapping = first.clone();
        (!image.code.is_empty()).then_some(Self { mapping, image, cfi: OnceCell::new() })
    }

    /// Returns whether an address is in the few instructions at which the program starts.
    #[cfg_attr(target_arch = "aarch64", expect(dead_code, reason = "only musl needs it"))]
    pub(super) fn is_at_entry(&self, address: u64) -> bool {
        const LEN: u64 = 64;
        (self.image.entry..self.image.entry.saturating_add(LEN)).contains(&address)
    }

    /// Returns the unwinding tables, if it has any.
    pub(super) fn cfi(&self) -> Option<&CfiTables> {
        self.cfi.get_or_init(|| CfiTables::load(&self.image)).as_ref()
    }

    /// Returns the file's path, without the kernel's note that it has been deleted.
    fn path(&self) -> &Path {
        let path = self.mapping.path.as_os_str().as_bytes();
        Path::new(OsStr::from_bytes(path.strip_suffix(DELETED).unwrap_or(path)))
    }

    fn is_own(&self) -> bool {
        let here: fn() -> Vec<Self> = read;
        self.image.has_code_at(here as usize as u64)
    }
}

// === impl Mapping ===

impl Mapping {
    /// Parses a line such as `7f12a000-7f12c000 r-xp 00001000 fe:00 4711    /usr/lib/a library.so`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let mut field = || fields.next();
        let (addresses, permissions, offset, _device, inode) =
            (field()?, field()?, field()?, field()?, field()?);
        let path = field().unwrap_or_default().trim_ascii_start();
        let (start, end) = std::str::from_utf8(addresses).ok()?.split_once('-')?;
        Some(Self {
            addresses: number(start.as_bytes(), 16)?..number(end.as_bytes(), 16)?,
            is_code: permissions.contains(&b'x'),
            offset: number(offset, 16)?,
            inode: number(inode, 10)?,
            path: PathBuf::from(OsStr::from_bytes(path)),
        })
    }

    fn may_begin_module(&self) -> bool {
        self.offset == 0 && (self.inode != 0 || self.path.as_os_str() == VDSO)
    }

    fn is_deleted(&self) -> bool {
        self.path.as_os_str().as_bytes().ends_with(DELETED)
    }

    /// Returns whether it has code at an address, from the same file as `first`.
    fn is_code_of(&self, first: &Self, address: u64) -> bool {
        self.is_code
            && self.inode == first.inode
            && self.path == first.path
            && self.addresses.contains(&address)
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use gimli::UnwindContext;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let line = b"7f12a000-7f12c000 r-xp 00001000 fe:00 4711            \
            /opt/my app/lib a.so (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.addresses, mapping.is_code), (0x7f12_a000..0x7f12_c000, true));
        assert_eq!((mapping.offset, mapping.inode), (0x1000, 4711));
        assert_eq!(mapping.path, Path::new("/opt/my app/lib a.so (deleted)"));
    }

    #[test]
    fn a_line_without_a_path_is_parsed() {
        let mapping = Mapping::parse(b"7f12a000-7f12c000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!(mapping.path, Path::new(""));
        assert!(!mapping.is_code && !mapping.may_begin_module());
        assert_eq!(Mapping::parse(b""), None);
    }

    #[test]
    fn the_kernel_note_is_not_part_of_the_path() {
        let module = Module {
            mapping: Mapping::parse(b"0-1 r--p 00000000 fe:00 1 /a b (deleted)").unwrap(),
            image: Image { bias: 0, entry: 0, code: Vec::new(), extent: 0..0, eh_frame_hdr: None },
            cfi: OnceCell::new(),
        };
        assert_eq!(module.path(), Path::new("/a b"));
    }

    #[test]
    fn all_modules_of_this_process_have_tables_except_musl() {
        let mut modules = Modules::default();
        assert!(modules.refresh() && !modules.refresh());
        let name = |module: &Module| {
            module.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        let names: Vec<_> = modules.0.iter().map(name).collect();
        let is_libc = |name: &String| name.starts_with("libc.so");
        assert!(names.iter().any(|name| name == VDSO), "{names:?}");
        assert_ne!(names.iter().any(is_libc), cfg!(target_feature = "crt-static"), "{names:?}");
        assert_eq!(modules.0.iter().filter(|module| module.is_own()).count(), 1);
        // On aarch64, Linux 6.1 has none: its functions keep the return address in a register.
        let may_lack = |name: &String| cfg!(target_arch = "aarch64") && name == VDSO;
        let mut without = modules.0.iter().filter(|module| module.cfi().is_none()).map(name);
        assert!(without.all(|name| may_lack(&name)), "{names:?}");
    }

    /// A file that is only read, such as the program itself by `backtrace`, is not a second module.
    #[test]
    fn modules_do_not_overlap() {
        backtrace::resolve(read as fn() -> _ as *mut _, |_| {});
        let mut modules = Modules::default();
        modules.refresh();
        let mut code: Vec<_> =
            modules.0.iter().flat_map(|module| module.image.code.clone()).collect();
        code.sort_by_key(|code| code.start);
        assert!(code.windows(2).all(|two| two[0].end <= two[1].start), "{code:x?}");
    }

    #[test]
    fn tables_are_kept_while_their_module_is_mapped() {
        let mut modules = Modules::default();
        modules.refresh();
        let here = read as fn() -> _ as usize as u64;
        assert!(modules.find(here).unwrap().cfi().is_some());
        modules.0.retain(Module::is_own);
        assert!(modules.refresh() && modules.0.len() > 1);
        assert!(modules.find(here).unwrap().cfi.get().is_some());
    }

    #[test]
    fn the_tables_have_a_row_for_this_function() {
        let mut modules = Modules::default();
        modules.refresh();
        let here = read as fn() -> _ as usize as u64;
        let mut context = UnwindContext::new();
        let cfi = modules.find(here).unwrap().cfi().unwrap();
        assert!(cfi.row(here, &mut context).is_some());
        assert!(cfi.row(8, &mut context).is_none());
    }

    proptest! {
        #[test]
        fn property_any_line_is_parsed_or_refused(line: Vec<u8>, start: u64, end: u64) {
            let _ = Mapping::parse(&line);
            let text = format!("{start:x}-{end:x} r-xp 0 0:0 7 ");
            let mapping = Mapping::parse(&[text.as_bytes(), &line].concat()).unwrap();
            prop_assert_eq!(mapping.addresses, start..end);
        }
    }
}
