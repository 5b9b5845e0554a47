"""The manager of all profiles: it checks changes, saves them before they take effect, and caches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from msgspec import UNSET, UnsetType

from whisperd.clock import now_rfc3339
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import errors
from whisperd.runtimes.manager import RuntimeManager
from whisperd.runtimes.preset import check_name
from whisperd.runtimes.profiles import Profile, ProfileStore

__all__ = ["ProfileChanges", "ProfileManager"]

Options = dict[str, Any]


class ProfileChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a profile that a user sets. `runtime` is a name or an id; None is the default."""

    name: str | UnsetType = UNSET
    runtime: str | UnsetType | None = UNSET
    options: Options | UnsetType = UNSET


class ProfileManager:
    """Manages profiles. Raises `profile.unknown`, `profile.exists`, `profile.stale`, `profile.invalid`."""

    def __init__(
        self,
        store: ProfileStore,
        runtimes: RuntimeManager,
        check_options: Callable[[Options], object],
    ) -> None:
        self._store = store
        self._runtimes = runtimes
        self._check_options = check_options
        self._profiles: dict[str, Profile] = {}
        self._saving = anyio.Lock()

    async def open(self) -> None:
        """Read the saved profiles."""
        self._profiles = {profile.name: profile for profile in await self._store.load()}

    def all(self) -> list[Profile]:
        """Return all profiles, sorted by name."""
        return [self._profiles[name] for name in sorted(self._profiles)]

    def find(self, name: str) -> Profile:
        """Return the profile with this name. Raises `profile.unknown`."""
        if profile := self._profiles.get(name):
            return profile
        raise errors.unknown_profile(name, self._profiles)

    def view(self, profile: Profile) -> dict[str, Any]:
        """Return the profile's fields for clients, with the runtime's name in place of its id."""
        shown = msgspec.structs.asdict(profile)
        return shown | {"runtime": profile.runtime and self._runtimes.name_of(profile.runtime)}

    async def create(self, changes: ProfileChanges) -> Profile:
        """Save a new profile."""
        now = now_rfc3339()
        async with self._saving:
            profile = self._changed(Profile(name="", created=now, changed=now), changes)
            if not profile.name:
                raise _invalid("name", "A profile needs a name.", "Specify its name.")
            self._check_free(profile.name)
            await self._store.insert(profile)
            self._profiles[profile.name] = profile
        return profile

    async def edit(self, name: str, changes: ProfileChanges, version: int | None = None) -> Profile:
        """Change a profile. Raises `profile.stale` if its version is not `version`."""
        async with self._saving:
            before = self.find(name)
            errors.check_version("profile", name, before.version, version)
            after = msgspec.structs.replace(
                self._changed(before, changes), changed=now_rfc3339(), version=before.version + 1
            )
            if after.name != name:
                self._check_free(after.name)
            await self._store.update(name, after)
            del self._profiles[name]
            self._profiles[after.name] = after
        return after

    async def delete(self, name: str) -> Profile:
        """Delete a profile, and return it."""
        async with self._saving:
            profile = self.find(name)
            await self._store.delete(name)
            del self._profiles[name]
        return profile

    def _changed(self, profile: Profile, changes: ProfileChanges) -> Profile:
        values: dict[str, Any] = {}
        if changes.name is not UNSET:
            values["name"] = check_name(changes.name, "profile")
        if changes.runtime is not UNSET:
            values["runtime"] = None if changes.runtime is None else self._runtimes.id_of(changes.runtime)
        if changes.options is not UNSET:
            self._check(changes.options)
            values["options"] = changes.options
        changed = msgspec.structs.replace(profile, **values)
        if changed.runtime is not None and changed.options.get("model") is not None:
            raise _invalid(
                "runtime",
                "A profile cannot name both a runtime and a model: a runtime has its own model.",
                "Remove its runtime, or the model from its options.",
            )
        return changed

    def _check_free(self, name: str) -> None:
        if name in self._profiles:
            raise errors.exists("profile", name, name)

    def _check(self, options: Options) -> None:
        if "runtime" in options:
            raise _invalid(
                "options", "The job options of a profile cannot name a runtime.", "Set the profile's runtime."
            )
        try:
            self._check_options(options)
        except WhisperdError as error:
            raise _invalid("options", error.message, error.fix) from error


def _invalid(field: str, message: str, fix: str) -> WhisperdError:
    return WhisperdError("profile.invalid", message, fix, {"field": field})
