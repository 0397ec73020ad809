use http::Method;

/// The label `method`: one of the nine standard methods, `OTHER`, or `TASK` for an instrumented
/// task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MethodLabel(u8);

impl MethodLabel {
    pub(super) const ALL: [&str; 11] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER",
        "TASK",
    ];
    pub(crate) const HEAD: Self = Self(1);
    const OTHER: Self = Self(9);
    pub(crate) const TASK: Self = Self(10);

    #[inline]
    pub(crate) fn new(method: &Method) -> Self {
        match *method {
            Method::GET => Self(0),
            Method::HEAD => Self(1),
            Method::POST => Self(2),
            Method::PUT => Self(3),
            Method::DELETE => Self(4),
            Method::CONNECT => Self(5),
            Method::OPTIONS => Self(6),
            Method::TRACE => Self(7),
            Method::PATCH => Self(8),
            _ => Self::OTHER,
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(Self::ALL.len())
    }

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL[self.index()]
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_methods_keep_their_name_and_extensions_are_other() {
        let extension = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(MethodLabel::new(&extension).as_str(), "OTHER");
        for name in &MethodLabel::ALL[..9] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(MethodLabel::new(&method).as_str(), *name);
        }
    }
}
