use super::Syscall;

impl Syscall {
    #[cfg(syscall_names)]
    pub(crate) fn name(self) -> Option<&'static str> {
        let number = usize::try_from(self.0).ok()?;
        syscalls::Sysno::new(number).map(|syscall| syscall.name())
    }

    /// The dependency that has the names does not compile here.
    #[cfg(not(syscall_names))]
    pub(crate) fn name(self) -> Option<&'static str> {
        None
    }

    /// Returns whether the first argument is a file descriptor.
    pub(crate) fn takes_fd(self) -> bool {
        const TAKING_FD: &[libc::c_long] = &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_connect,
            // These have only `accept4`, and the call `socketcall`.
            #[cfg(not(any(target_arch = "x86", target_arch = "s390x")))]
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_flock,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
            libc::SYS_fallocate,
        ];
        TAKING_FD.contains(&libc::c_long::from(self.0))
    }
}
