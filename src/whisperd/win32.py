"""Windows' counterparts of process groups, file modes and users: job objects and access control lists.

Imported on Windows only, so it is tested only by CI on Windows.
"""
# ruff: noqa: E402 - the imports after the assertion exist on Windows only

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes
from ctypes import wintypes
from typing import Final

__all__ = ["JobObject", "create_pipe", "current_user", "owner_of"]

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)

_INVALID_HANDLE: Final = ctypes.c_void_p(-1).value
_PIPE_BUFFER_BYTES: Final = 64 * 1024

# Names and values as in the Windows headers.
_PIPE_ACCESS_DUPLEX: Final = 0x3
_FILE_FLAG_OVERLAPPED: Final = 0x40000000
_FILE_FLAG_FIRST_PIPE_INSTANCE: Final = 0x80000
_PIPE_REJECT_REMOTE_CLIENTS: Final = 0x8
_PIPE_UNLIMITED_INSTANCES: Final = 255
_SDDL_REVISION: Final = 1
_SE_KERNEL_OBJECT: Final = 6
_OWNER_SECURITY_INFORMATION: Final = 1
_TOKEN_QUERY: Final = 0x8
_TOKEN_USER: Final = 1
_PROCESS_SET_QUOTA_AND_TERMINATE: Final = 0x100 | 0x1
_JOB_OBJECT_EXTENDED_LIMIT_INFORMATION: Final = 9
_JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE: Final = 0x2000

for _function in (
    _kernel32.CreateNamedPipeW,
    _kernel32.CreateJobObjectW,
    _kernel32.OpenProcess,
    _kernel32.GetCurrentProcess,
    _kernel32.LocalFree,
):
    _function.restype = ctypes.c_void_p


class JobObject:
    """Processes that are killed together when the block or this process ends, however it ends."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p(_check(_kernel32.CreateJobObjectW(None, None)))
        limits = _ExtendedLimits()
        limits.LimitFlags = _JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        _check(
            _kernel32.SetInformationJobObject(
                self._handle,
                _JOB_OBJECT_EXTENDED_LIMIT_INFORMATION,
                ctypes.byref(limits),
                ctypes.sizeof(limits),
            )
        )

    def __enter__(self) -> JobObject:
        return self

    def __exit__(self, *_: object) -> None:
        _kernel32.CloseHandle(self._handle)

    def add(self, pid: int) -> None:
        """Add a process; what it starts from now on belongs to the job object as well."""
        process = ctypes.c_void_p(_check(_kernel32.OpenProcess(_PROCESS_SET_QUOTA_AND_TERMINATE, False, pid)))
        try:
            _check(_kernel32.AssignProcessToJobObject(self._handle, process))
        finally:
            _kernel32.CloseHandle(process)


def create_pipe(path: str, *, is_first: bool) -> int:
    """Create the server's end of a named pipe, accessible to the current user alone, and return its handle.

    Raises `PermissionError` if `is_first` and a pipe of that name exists, whoever created it.
    """
    user = current_user()
    descriptor = ctypes.c_void_p()
    _check(
        _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            f"O:{user}D:P(A;;GA;;;{user})", _SDDL_REVISION, ctypes.byref(descriptor), None
        )
    )
    attributes = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False)
    first = _FILE_FLAG_FIRST_PIPE_INSTANCE if is_first else 0
    try:
        handle = _kernel32.CreateNamedPipeW(
            path,
            _PIPE_ACCESS_DUPLEX | _FILE_FLAG_OVERLAPPED | first,
            _PIPE_REJECT_REMOTE_CLIENTS,
            _PIPE_UNLIMITED_INSTANCES,
            _PIPE_BUFFER_BYTES,
            _PIPE_BUFFER_BYTES,
            0,
            ctypes.byref(attributes),
        )
        return _check(handle)
    finally:
        _kernel32.LocalFree(descriptor)


def current_user() -> str:
    """Return the security identifier of the current user, as text."""
    token = wintypes.HANDLE()
    process = ctypes.c_void_p(_kernel32.GetCurrentProcess())
    _check(_advapi32.OpenProcessToken(process, _TOKEN_QUERY, ctypes.byref(token)))
    try:
        size = wintypes.DWORD()
        _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        _check(_advapi32.GetTokenInformation(token, _TOKEN_USER, buffer, size, ctypes.byref(size)))
    finally:
        _kernel32.CloseHandle(token)
    # A TOKEN_USER begins with the pointer to the identifier.
    return _as_text(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_void_p))[0])


def owner_of(handle: int) -> str:
    """Return the security identifier of the user who owns a pipe, as text."""
    owner, descriptor = ctypes.c_void_p(), ctypes.c_void_p()
    error = _advapi32.GetSecurityInfo(
        ctypes.c_void_p(handle),
        _SE_KERNEL_OBJECT,
        _OWNER_SECURITY_INFORMATION,
        ctypes.byref(owner),
        None,
        None,
        None,
        ctypes.byref(descriptor),
    )
    if error:
        raise ctypes.WinError(error)
    try:
        return _as_text(owner.value)
    finally:
        _kernel32.LocalFree(descriptor)


class _SecurityAttributes(ctypes.Structure):
    _fields_ = (
        ("nLength", wintypes.DWORD),
        ("lpSecurityDescriptor", ctypes.c_void_p),
        ("bInheritHandle", wintypes.BOOL),
    )


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, of which we set one flag."""

    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


def _check(result: int | None) -> int:
    """Return the result of a call; raise `OSError` if it failed."""
    if not result or result == _INVALID_HANDLE:
        raise ctypes.WinError(ctypes.get_last_error())
    return result


def _as_text(identifier: int | None) -> str:
    text = wintypes.LPWSTR()
    _check(_advapi32.ConvertSidToStringSidW(ctypes.c_void_p(identifier), ctypes.byref(text)))
    try:
        return text.value or ""
    finally:
        _kernel32.LocalFree(text)
