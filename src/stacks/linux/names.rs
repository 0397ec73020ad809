//! Makes the names of functions readable.

/// The most characters of a name.
const MAX_LENGTH: usize = 120;

/// Returns a name as its author wrote it: without type parameters and the compiler's closures, and
/// not longer than fits in a line.
///
/// An async function, for instance, is compiled to a closure, which is part of the name. The name of
/// the code that drops a value has the type of the value, which tells what is dropped.
pub(super) fn readable(name: &str) -> String {
    if let Some(dropped) = dropped_type(name) {
        return shorten(&format!("drop_in_place<{}>", readable(dropped)));
    }
    let name = without_parameters(name);
    let name = unqualified(&name);
    let name = without_closures(name.strip_prefix("{impl#").map_or(&name, after_impl));
    shorten(name)
}

fn dropped_type(name: &str) -> Option<&str> {
    let (_, parameter) = name.split_once("drop_in_place")?;
    let parameter = parameter.strip_prefix("::").unwrap_or(parameter);
    parameter.strip_prefix('<')?.strip_suffix('>')
}

/// Finds the path of inlined closures and async functions, of which line tables have only the last
/// part, `{async_fn#0}`: the functions that they are inlined into have their types as parameters,
/// such as `poll<app::report::{async_fn_env#0}>`. The names are those of one address, the innermost
/// first, as the compiler wrote them.
///
/// A type belongs to the outermost of the functions that are inlined into the one with the parameter,
/// which may be a closure itself.
pub(super) fn paths_of_inlined(names: &[String]) -> Vec<Option<String>> {
    let is_inlined = |name: &String| name.starts_with('{');
    let path = |(index, name): (usize, &String)| {
        let kind = name.strip_prefix('{')?.split_once('}')?.0;
        let (kind, number) = kind.split_once('#')?;
        let env = format!("::{{{kind}_env#{number}}}");
        let outer = &names[index + 1..];
        let until = outer.iter().position(is_inlined).map_or(outer.len(), |next| next + 1);
        let outer = outer[..until].iter();
        let mut paths: Vec<_> = outer.flat_map(|name| paths_before(name, &env)).collect();
        paths.dedup();
        if let [path] = paths[..] { Some(readable(path)) } else { None }
    };
    names.iter().enumerate().map(path).collect()
}

/// Returns the paths that end with `env` in a name.
fn paths_before<'n>(name: &'n str, env: &str) -> impl Iterator<Item = &'n str> {
    name.match_indices(env).map(|(end, _)| {
        let start =
            name[..end].rfind(['<', ' ', '(', '&', ',', '[']).map_or(0, |before| before + 1);
        &name[start..end]
    })
}

/// Returns whether a name has no path.
pub(super) fn is_bare(name: &str) -> bool {
    !name.contains("::")
}

/// Removes type parameters, `f<T>` and `f::<T>`. Keeps `<T as Trait>::f`.
fn without_parameters(name: &str) -> String {
    let mut kept = String::with_capacity(name.len());
    let mut depth = 0_usize;
    let mut previous = ' ';
    for c in name.chars() {
        match c {
            // Parameters follow a name; the type of an `impl` follows nothing.
            '<' if depth > 0
                || previous.is_alphanumeric()
                || matches!(previous, '_' | ':' | '}') =>
            {
                if depth == 0 && kept.ends_with("::") {
                    kept.truncate(kept.len() - 2);
                }
                depth += 1;
            }
            '>' if depth > 0 && previous != '-' => depth -= 1,
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
        previous = c;
    }
    kept
}

/// Replaces `<path::Type>::f` by `path::Type::f`.
fn unqualified(name: &str) -> String {
    let inner = name.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match inner {
        Some((path, rest)) if !path.contains([' ', '<', '[', '(', '&']) => format!("{path}{rest}"),
        _ => name.to_owned(),
    }
}

/// Returns what follows the number of an `impl`, `5}::poll`.
fn after_impl(rest: &str) -> &str {
    rest.split_once("}::").map_or(rest, |(_, name)| name)
}

/// Removes the closures at the end of a path.
fn without_closures(mut name: &str) -> &str {
    while let Some((path, last)) = name.rsplit_once("::") {
        if !(last.starts_with('{') && last.ends_with('}')) || last.contains("vtable") {
            break;
        }
        name = path;
    }
    name
}

/// Cuts off the beginning of a name that is too long: the end is the function's own name.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_LENGTH {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length - MAX_LENGTH + 1)).collect()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_the_one_that_its_author_wrote() {
        for (name, expected) in [
            ("demo::blocking::report::{{closure}}", "demo::blocking::report"),
            ("demo::report::{{closure}}::{{closure}}", "demo::report"),
            ("demo::blocking::report::{async_fn#0}", "demo::blocking::report"),
            ("demo::blocking::report::{closure#0}::<u8>", "demo::blocking::report"),
            ("demo::main", "demo::main"),
            ("{async_fn#0}", "{async_fn#0}"),
            ("{async_fn#0}<alloc::vec::Vec<u8>>", "{async_fn#0}"),
            ("poll<demo::f::{async_fn_env#0}, alloc::sync::Arc<u8>>", "poll"),
            (
                "tokio::runtime::task::raw::poll::<demo::f, fn() -> u8>",
                "tokio::runtime::task::raw::poll",
            ),
            ("<tokio::runtime::Context>::run", "tokio::runtime::Context::run"),
            ("<demo::Pool<u8> as core::ops::Drop>::drop", "<demo::Pool as core::ops::Drop>::drop"),
            ("{impl#5}::poll<u8>", "poll"),
            ("drop_in_place<demo::f::{async_fn_env#0}>", "drop_in_place<demo::f>"),
            ("core::ptr::drop_in_place::<demo::Tree<u8>>", "drop_in_place<demo::Tree>"),
            ("core::ptr::drop_in_place<[demo::Row]>", "drop_in_place<[demo::Row]>"),
            ("<[u8] as demo::Encode>::encode", "<[u8] as demo::Encode>::encode"),
            ("__libc_read", "__libc_read"),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    #[test]
    fn an_inlined_function_has_the_path_of_its_type() {
        let paths = |names: &[&str]| {
            paths_of_inlined(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let poll = "poll<core::pin::Pin<&mut app::report::{async_fn_env#0}>, u8>";
        let report = Some("app::report".to_owned());
        assert_eq!(paths(&["sleep", "{async_fn#0}", poll]), [None, report.clone(), None]);
        assert_eq!(
            paths(&["{async_fn#0}", "{async_fn#0}", poll]),
            [None, report, None],
            "the inner one is another function"
        );
        assert_eq!(paths(&["{async_fn#1}", poll]), [None, None], "another number");
        let glue = "{async_block#0}<fn() -> app::report::{async_fn_env#0}, \
                    app::report::{async_fn_env#0}, ()>";
        assert_eq!(paths(&["{async_fn#0}", glue])[0], Some("app::report".to_owned()));
        let two = "f<app::a::{async_fn_env#0}, app::b::{async_fn_env#0}>";
        assert_eq!(paths(&["{async_fn#0}", two]), [None, None], "one of two");
        let nested = "f<app::main::{closure#0}::{closure_env#2}>";
        assert_eq!(paths(&["{closure#2}<u8>", nested]), [Some("app::main".to_owned()), None]);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let name = readable(&format!("{}::handler", "module::".repeat(40)));
        assert_eq!(name.chars().count(), MAX_LENGTH);
        assert!(name.starts_with('…') && name.ends_with("module::::handler"));
    }

    const PARTS: &[&str] = &[
        "drop_in_place",
        "::",
        "<",
        ">",
        "{",
        "}",
        "{closure#0}",
        "{impl#5}",
        "{async_fn_env#0}",
        "{async_fn#0}",
        "app",
        "poll",
        " as ",
        "->",
        "(",
        ")",
        ",",
        "&",
        "[",
        "é",
        "{vtable}",
    ];

    /// Parts of mangled names, in any order.
    fn name() -> impl Strategy<Value = String> {
        let part =
            prop_oneof![proptest::sample::select(PARTS).prop_map(str::to_owned), any::<String>(),];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn property_any_name_is_made_readable_and_short(name in name()) {
            prop_assert!(readable(&name).chars().count() <= MAX_LENGTH, "{}", name);
        }

        #[test]
        fn property_any_inlined_names_have_paths_or_none(
            names in proptest::collection::vec(name(), 0..6),
        ) {
            prop_assert_eq!(paths_of_inlined(&names).len(), names.len());
        }
    }
}
