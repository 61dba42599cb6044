"""Remove one guard at a time, and show that a test turns red for each.

``make sabotage`` tries all of `GUARDS`, ``python tests/sabotage.py WORD...`` those whose names hold a word. The files
are changed in copies of the repository, never in place. Exit code 1 if a test stays green without its guard.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

REPOSITORY = Path(__file__).parent.parent
COPIED = ("features", "extract", "detectors", "pipelines", "src", "tests", "docs", "pyproject.toml")
TEST_SECONDS = 120
"""A test that does not end without its guard is red, too."""

ATTACKS = "tests/attacks/test_hostile_{}.py::{}"


@dataclass(frozen=True)
class Guard:
    """``old`` stands once in ``file``; ``new`` in its place removes the guard, and ``test`` must then fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def _attack(module: str, test: str) -> str:
    return ATTACKS.format(module, test)


def _hdf5(attack: str, kind: str = "shard") -> str:
    return _attack("hdf5", f"test_it_is_refused_before_its_data_is_read[{kind}-{attack}]")


_PUBLISH, _SHARD, _VIDEO = "features/publish.py", "features/shard.py", "extract/video.py"
_CHILD, _POOL, _CHECKPOINTS = "extract/decode_child.py", "extract/isolate.py", "extract/checkpoints.py"
_JSON, _WEIGHTS, _PACKAGES = "features/plain_json.py", "extract/weights.py", "extract/package_source.py"
_POWER = (
    "tests/features/test_publish.py::test_power_loss_at_any_instant_leaves_old_or_new_and_never_takes_back_a_success"
)
_NO_VIDEO = "tests/extract/test_video_inputs.py::{}"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "fsync of a file that is written",
        _PUBLISH,
        "            os.fsync(descriptor)\n        finally:\n            # Network",
        "        finally:\n            # Network",
        _POWER,
    ),
    Guard("fsync of a file that is handed over", _PUBLISH, "            _sync_file(temporary)\n", "", _POWER),
    Guard(
        "fsync of the folder after the rename",
        _PUBLISH,
        "    _sync_directory(final.parent)\n    return Published(final, outcome)",
        "    return Published(final, outcome)",
        _POWER,
    ),
    Guard(
        "fsync above a new folder",
        _PUBLISH,
        "            _sync_directory(directory.parent)\n",
        "",
        "tests/features/test_publish.py::test_directories_are_made_with_their_parents_and_synced",
    ),
    Guard(
        "the first of two writers wins",
        _PUBLISH,
        "_rename(temporary, final, digest) if replace else _link(temporary, final, digest)",
        "_rename(temporary, final, digest)",
        "tests/features/test_publish.py::test_exactly_one_of_six_writers_wins_each_name_and_its_content_stands",
    ),
    Guard(
        "O_EXCL of temporary files",
        _PUBLISH,
        "os.O_CREAT | os.O_EXCL | _O_CLOEXEC",
        "os.O_CREAT | _O_CLOEXEC",
        "tests/features/test_publish.py::test_a_temporary_name_that_exists_is_never_written_to",
    ),
    Guard(
        "O_EXCL and O_NOFOLLOW of temporary files",
        _PUBLISH,
        "os.O_CREAT | os.O_EXCL | _O_CLOEXEC | _O_NOFOLLOW",
        "os.O_CREAT | _O_CLOEXEC",
        "tests/features/test_publish.py::test_a_symbolic_link_planted_in_tmp_is_not_followed",
    ),
    Guard(
        "room is reserved before the first byte",
        _PUBLISH,
        "            preallocate(descriptor, len(data))\n",
        "",
        "tests/features/test_publish.py::test_every_system_call_met_every_fault",
    ),
    Guard(
        "a shard's header is compared with itself",
        _SHARD,
        "header.to_bytes() == block",
        "True",
        "tests/features/test_shard.py::test_the_quick_check_finds_a_damaged_header",
    ),
    Guard(
        "a shard has the length that it states",
        _SHARD,
        "    if status.st_size != HEADER_BYTES + header.body_bytes:",
        "    if False:",
        "tests/features/test_shard.py::test_every_truncation_and_every_extension_is_found_without_hashing",
    ),
    Guard(
        "a shard's body has its sha256",
        _SHARD,
        "    if found != expected:",
        "    if False:",
        "tests/features/test_shard.py::test_every_flipped_bit_is_found",
    ),
    Guard(
        "a shard is of the video that its key names",
        _SHARD,
        "    if key_of(identifier) != header.key:",
        "    if False:",
        "tests/features/test_shard.py::test_the_image_of_another_video_is_a_stranger",
    ),
    Guard(
        "O_NOFOLLOW of shards",
        _SHARD,
        '"O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")',
        '"O_CLOEXEC", "O_NONBLOCK")',
        _attack("texts", "TestLinksInAStore::test_a_shard_that_is_a_link_is_not_read"),
    ),
    Guard(
        "O_NONBLOCK of shards",
        _SHARD,
        '"O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")',
        '"O_CLOEXEC", "O_NOFOLLOW")',
        "tests/features/test_shard.py::test_what_is_no_regular_file_is_unreadable_and_hangs_nobody[read_header-mkfifo]",
    ),
    Guard(
        "a shard is a regular file",
        _SHARD,
        "    if not is_file:",
        "    if False:",
        "tests/features/test_shard.py::test_what_is_no_regular_file_is_unreadable_and_hangs_nobody[read_header-directory]",
    ),
    Guard(
        "HDF5: links are not followed",
        _SHARD,
        "not isinstance(file.get(name, getlink=True), h5py.HardLink):",
        "file.get(name, getlink=True) is None:",
        _hdf5("external link"),
    ),
    Guard(
        "HDF5: soft links neither",
        _SHARD,
        "not isinstance(file.get(name, getlink=True), h5py.HardLink):",
        "not isinstance(file.get(name, getlink=True), h5py.HardLink | h5py.SoftLink):",
        _hdf5("soft link", "bags"),
    ),
    Guard(
        "HDF5: no name leads through a group",
        _SHARD,
        '    if "/" in name or',
        "    if",
        _attack("hdf5", "test_no_name_leads_through_a_link"),
    ),
    Guard(
        "HDF5: nothing is stored outside of the file",
        _SHARD,
        " or dataset.external or",
        " or",
        _hdf5("external storage", "import"),
    ),
    Guard("HDF5: no virtual data set", _SHARD, " or dataset.is_virtual:", ":", _hdf5("virtual data set", "packed")),
    Guard(
        "HDF5: types are numbers",
        _SHARD,
        "    if dataset.dtype.kind != kind or dataset.ndim",
        "    if dataset.ndim",
        _hdf5("references", "stage"),
    ),
    Guard(
        "HDF5: filters are those that vadx writes",
        _SHARD,
        "    if not filters <= _ALLOWED_FILTERS:",
        "    if False:",
        _attack("hdf5", "test_no_plug_in_is_loaded"),
    ),
    Guard(
        "HDF5: no more is claimed than the file can hold",
        _SHARD,
        "    if dataset.nbytes > ratio * path.stat().st_size:",
        "    if False:",
        _hdf5("4 TiB", "import"),
    ),
    Guard(
        "HDF5: no chunk is larger than all",
        _SHARD,
        "    if chunk_bytes > max(dataset.nbytes, _MAX_CHUNK_BYTES):",
        "    if False:",
        _hdf5("a chunk larger than all", "import"),
    ),
    Guard(
        "HDF5: attributes are numbers and texts",
        _SHARD,
        "        if kept.shape != () or not (",
        "        if False and not (",
        _attack("hdf5", "test_attributes_are_numbers_and_texts[bags-_large_attribute]"),
    ),
    Guard(
        "HDF5: links above a packed video",
        "features/packed_set.py",
        "            if not isinstance(node.get(part, getlink=True), h5py.HardLink):",
        "            if part not in node:",
        _attack("hdf5", "test_a_packed_videos_group_is_no_link"),
    ),
    Guard(
        "a packed video has its sha256",
        "features/packed_set.py",
        "            if check and _content_sha256(identifier, attributes, features) != attributes[_CONTENT]:",
        "            if False:",
        _attack("hdf5", "test_a_packed_video_that_was_changed_is_found"),
    ),
    Guard(
        "a folder of shards is no link",
        "features/shard_set.py",
        "        _refuse_link(final.parent)\n",
        "",
        _attack("texts", "TestLinksInAStore::test_a_folder_that_is_a_link_is_not_written_to"),
    ),
    Guard(
        "O_NOFOLLOW of unfinished work",
        "features/checkpoint.py",
        "os.O_CLOEXEC | _O_NOFOLLOW",
        "os.O_CLOEXEC",
        _attack("texts", "TestLinksInAStore::test_unfinished_work_that_is_a_link_is_not_emptied"),
    ),
    Guard(
        "checksum of unfinished work",
        "features/checkpoint.py",
        " or _check(head, payload) != stated:",
        ":",
        "tests/features/test_checkpoint.py::test_a_flipped_byte_ends_what_is_found",
    ),
    Guard(
        "O_NOFOLLOW of a run's log",
        "pipelines/run.py",
        "os.O_CREAT | _O_NOFOLLOW, 0o666",
        "os.O_CREAT, 0o666",
        _attack("texts", "TestLinksInAStore::test_a_log_that_is_a_link_is_not_appended_to"),
    ),
    Guard(
        "the index has its sha256",
        "features/index.py",
        ' or check != _check("listing", names, rows):',
        ":",
        "tests/features/test_index.py::test_a_flipped_bit_in_the_index_never_changes_what_is_listed_or_hinted",
    ),
    Guard(
        "ids that are not plain are hashed",
        "features/keys.py",
        "    if _PLAIN.fullmatch(identifier):",
        "    if True:",
        _attack("texts", "test_no_id_leads_out_of_a_store[../../../../../outside]"),
    ),
    Guard(
        "no id leads out of a folder",
        "features/keys.py",
        '    if "\\0" in identifier or',
        "    if False and",
        _attack("texts", "test_no_id_leads_out_of_a_folder_of_results[score]"),
    ),
    Guard(
        "ids of a manifest lie below its root",
        "features/text_lines.py",
        '    if _DRIVE.match(text) or set(parts) & {"", ".", ".."}:',
        "    if False:",
        "tests/features/test_layout_folders.py::test_nothing_outside_the_folder_is_read",
    ),
    Guard(
        "JSON: no NaN",
        _JSON,
        "parse_constant=_refuse, ",
        "",
        _attack("texts", "test_hostile_json_is_refused_by_name[recipe.json-NaN]"),
    ),
    Guard(
        "JSON: no number without end",
        _JSON,
        "    if not math.isfinite(number):",
        "    if False:",
        _attack("texts", "test_hostile_json_is_refused_by_name[recipe.json-too large a number]"),
    ),
    Guard(
        "JSON: no name twice",
        _JSON,
        "    if len(found) < len(pairs):",
        "    if False:",
        "tests/features/test_manifest.py::test_json_lines_are_refused_by_line_too",
    ),
    Guard(
        "JSON: not too deep",
        _JSON,
        "    except RecursionError as error:",
        "    except ZeroDivisionError as error:",
        _attack("texts", "test_hostile_json_is_refused_by_name[recipe.json-100,000 deep]"),
    ),
    Guard(
        "JSON: at most 64 MiB",
        _JSON,
        "    if len(data) > max_bytes:",
        "    if False:",
        _attack("texts", "test_a_file_far_too_long_is_not_read"),
    ),
    Guard(
        "JSON: regular files",
        _JSON,
        "        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):",
        "        if False:",
        _attack("texts", "test_no_reader_waits_for_a_fifo_or_follows_a_device"),
    ),
    Guard(
        "TOML: not too deep",
        "pipelines/config.py",
        "    except (OSError, ValueError, RecursionError) as error:",
        "    except (OSError, ValueError) as error:",
        _attack("texts", "test_hostile_settings_are_refused_by_name"),
    ),
    Guard(
        "features are finite",
        "features/timeline.py",
        "    if not np.isfinite(values).all():",
        "    if False:",
        "tests/features/test_bag_file.py::test_a_bag_refuses_what_is_not_finite",
    ),
    Guard(
        "lists: only opcodes of plain values",
        "features/plain_pickle.py",
        "            if opcode.name not in PLAIN_OPCODES:",
        "            if False:",
        "tests/features/test_box_annotations.py::test_a_pickle_that_would_run_something_is_refused_before_it_does",
    ),
    Guard(
        "lists: no class is loaded",
        "features/plain_pickle.py",
        '        msg = f"it names {module}.{name}"\n        raise pickle.UnpicklingError(msg)',
        "        return super().find_class(module, name)",
        "tests/features/test_box_annotations.py::test_the_second_guard_loads_no_class_either",
    ),
    Guard(
        "arrays hold no objects",
        "features/layouts/files.py",
        '    if dtype.kind not in "fiub" or dtype.hasobject or',
        "    if",
        "tests/pipelines/test_import_bad_files.py::test_a_bad_file_costs_its_video_alone[objects]",
    ),
    Guard(
        "masks are no pickles",
        "features/truth_readers.py",
        'mmap_mode="r", allow_pickle=False',
        "allow_pickle=True",
        "tests/features/test_annotations.py::test_a_pickle_among_the_masks_is_never_loaded",
    ),
    Guard(
        "containers are those of a list",
        _VIDEO,
        '"protocol_whitelist": "file", "format_whitelist": _FORMATS',
        '"protocol_whitelist": "file"',
        _attack("videos", "test_a_file_that_names_others_opens_none[ffconcat of a file]"),
    ),
    Guard(
        "protocols are those of a list",
        _VIDEO,
        '"protocol_whitelist": "file", ',
        "",
        _attack("videos", "test_ffmpeg_is_told_which_formats_and_protocols_it_may_use"),
    ),
    Guard(
        "a name is only a name",
        _VIDEO,
        'f"file:{path.absolute()}"',
        "str(path)",
        _NO_VIDEO.format("test_a_name_is_only_a_name[a:b.mp4]"),
    ),
    Guard(
        "a video is a regular file",
        "extract/files.py",
        "    if not stat.S_ISREG(status.st_mode):",
        "    if False:",
        _NO_VIDEO.format("test_what_is_no_sound_video_has_its_code[False-device.mp4]"),
    ),
    Guard(
        "pixels by the header",
        _VIDEO,
        "        if decoder.width * decoder.height > max_pixels:",
        "        if False:",
        _NO_VIDEO.format("test_frames_above_the_pixel_limit_are_refused"),
    ),
    Guard(
        "pixels by the decoder",
        _VIDEO,
        '        decoder.options = {"max_pixels": str(max_pixels)}',
        "        decoder.options = {}",
        _NO_VIDEO.format("test_frames_that_grow_above_the_pixel_limit_are_not_decoded"),
    ),
    Guard(
        "FFmpeg's log is off",
        _VIDEO,
        "        av.logging.set_level(None)\n",
        "",
        _attack("videos", "test_decoding_is_silent_where_a_word_would_hang_it"),
    ),
    Guard(
        "metadata need not be text",
        _VIDEO,
        '            metadata_errors="replace",\n',
        "",
        _NO_VIDEO.format("test_metadata_that_is_no_text_hurts_nobody"),
    ),
    Guard(
        "blocks of frames are handed out as they fill",
        _VIDEO,
        "_BLOCK_FRAMES, _BLOCK_BYTES // image.nbytes",
        "1 << 20, _BLOCK_BYTES // image.nbytes",
        _attack("videos", "test_frames_are_never_collected"),
    ),
    Guard(
        "RLIMIT_AS of decoders",
        _CHILD,
        "        (resource.RLIMIT_AS, num_bytes),\n",
        "",
        "tests/extract/test_isolate.py::test_a_video_that_takes_too_much_memory_fails_alone",
    ),
    Guard(
        "RLIMIT_CORE of decoders",
        _CHILD,
        "        (resource.RLIMIT_CORE, 0),\n",
        "",
        _attack("videos", "test_a_decoder_has_limits"),
    ),
    Guard(
        "RLIMIT_NOFILE of decoders",
        _CHILD,
        "        (resource.RLIMIT_NOFILE, num_files),\n",
        "",
        _attack("videos", "test_a_decoder_has_limits"),
    ),
    Guard(
        "decoders get no secret",
        _CHILD,
        "                env=_plain_environment(),\n",
        "",
        _attack("videos", "test_a_decoder_hears_no_secret_of_the_environment"),
    ),
    Guard(
        "decoders import nothing from the working directory",
        _CHILD,
        '[sys.executable, "-P", "-m"',
        '[sys.executable, "-m"',
        "tests/extract/test_isolate.py::test_a_module_in_the_working_directory_is_not_imported",
    ),
    Guard(
        "what decoders say is checked",
        _CHILD,
        "        if wrong is not None:",
        "        if False:",
        "tests/extract/test_isolate.py::test_nonsense_is_refused_and_costs_one_video",
    ),
    Guard(
        "watchdog of silence",
        _POOL,
        "            if process.silent_seconds > limits.stall_seconds:",
        "            if False:",
        "tests/extract/test_isolate.py::test_a_halt_costs_one_video",
    ),
    Guard(
        "watchdog of time",
        _POOL,
        "            elif limits.video_seconds is not None and process.busy_seconds > limits.video_seconds:",
        "            elif False:",
        "tests/extract/test_isolate.py::test_a_video_has_its_time",
    ),
    Guard(
        "a crash costs one video",
        _POOL,
        '            code = "VIDEO_OOM" if killed else "VIDEO_CRASH"\n',
        '            code = "VIDEO_DAMAGED"\n',
        "tests/extract/test_isolate.py::test_a_crash_costs_one_video",
    ),
    Guard(
        "torch reads tensors only",
        _CHECKPOINTS,
        "weights_only=True, ",
        "weights_only=False, ",
        _attack("checkpoints", "test_nothing_in_a_checkpoint_is_run[zip-plain]"),
    ),
    Guard(
        "no environment lets torch run code",
        _CHECKPOINTS,
        '    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):',
        "    if False:",
        "tests/extract/test_checkpoints.py::test_a_good_file_is_not_read_where_the_environment_lets_files_run_code",
    ),
    Guard(
        "pickles name what describes arrays",
        _CHECKPOINTS,
        "            return _ARRAY_PARTS[module, name]",
        "            return super().find_class(module, name)",
        _attack("checkpoints", "test_nothing_in_a_checkpoint_is_run[pickle-plain]"),
    ),
    Guard(
        "arrays of a checkpoint are no pickles",
        _CHECKPOINTS,
        "        with np.load(path, allow_pickle=False) as archive:",
        "        with np.load(path, allow_pickle=True) as archive:",
        _attack("checkpoints", "test_nothing_in_a_checkpoint_is_run[npz-plain]"),
    ),
    Guard(
        "programs are run with a known hash only",
        _CHECKPOINTS,
        "        if trusted_torchscript:",
        "        if True:",
        "tests/extract/test_checkpoints.py::test_a_torchscript_program_is_run_only_where_its_hash_was_checked",
    ),
    Guard(
        "archives hold about what they are long",
        _CHECKPOINTS,
        "    if claimed > MAX_RATIO",
        "    if False and claimed > MAX_RATIO",
        _attack("checkpoints", "test_a_small_file_takes_little_memory[deflated]"),
    ),
    Guard(
        "headers of safetensors have an end",
        _CHECKPOINTS,
        "    if num_bytes > MAX_HEADER_BYTES:",
        "    if False:",
        _attack("checkpoints", "test_a_small_file_takes_little_memory[a long header]"),
    ),
    Guard(
        "shapes fit before values are copied",
        _CHECKPOINTS,
        "    problems += shapes[:3]\n",
        "",
        _attack("checkpoints", "test_a_small_file_takes_little_memory[a view of one number]"),
    ),
    Guard(
        "sha256 of published weights",
        _WEIGHTS,
        "    if expected is not None and digest != expected:",
        "    if False:",
        "tests/extract/test_weights.py::test_another_file_is_refused_with_both_hashes",
    ),
    Guard(
        "sha256 of stored weights",
        _WEIGHTS,
        "    if file_sha256(path) != record.safetensors_sha256:",
        "    if False:",
        "tests/extract/test_weights.py::test_a_changed_file_of_the_cache_is_refused",
    ),
    Guard(
        "sha256 of packages",
        _PACKAGES,
        "    if got != expected:",
        "    if False:",
        "tests/extract/test_weights_sources.py::test_hashes_and_sizes_of_a_package_are_checked",
    ),
    Guard(
        "size of a package's member",
        _PACKAGES,
        "    if num_bytes != source.member_bytes:",
        "    if False:",
        "tests/extract/test_weights_sources.py::test_a_member_is_not_read_before_its_size_is_known",
    ),
    Guard(
        "a package's member is a regular file",
        _PACKAGES,
        "            if info.isreg() and",
        "            if",
        "tests/extract/test_weights_sources.py::test_a_link_before_the_member_is_passed_over",
    ),
    Guard(
        "npm runs no script of a package",
        _PACKAGES,
        '"--ignore-scripts", ',
        "",
        "tests/extract/test_package_npm.py::test_npm_fetches_one_member_and_runs_nothing_of_the_package",
    ),
    Guard(
        "messages hold no password",
        _PACKAGES,
        '_CREDENTIALS.sub("//", ',
        "str(",
        _attack("names", "test_no_message_repeats_a_registrys_password"),
    ),
    Guard(
        "facts of a model are in their bounds",
        "pipelines/model_folder.py",
        "        if name in facts and not holds(facts[name]):",
        "        if False:",
        "tests/pipelines/test_model_folder.py::test_a_fact_that_cannot_be_is_refused_by_name",
    ),
    Guard(
        "headers of a model's tensors have an end",
        "pipelines/model_folder.py",
        "        check_header_length(path)\n",
        "",
        _attack("checkpoints", "test_a_models_tensors_are_refused_alike[a long header]"),
    ),
    Guard(
        "schedulers that others reach need TLS",
        "pipelines/cluster.py",
        '    if parts.scheme == "tcp" and not insecure and not _is_loopback(host):',
        "    if False:",
        "tests/pipelines/test_cluster.py::TestAddresses::test_what_others_reach_needs_tls_or_a_word",
    ),
    Guard(
        "workers listen on the loopback interface",
        "pipelines/cluster.py",
        '            "host": "127.0.0.1",\n',
        "",
        "tests/pipelines/test_cluster.py::TestUnits::test_nothing_listens_beyond_this_machine",
    ),
    Guard(
        "words of a batch script are quoted",
        "pipelines/slurm_script.py",
        "shlex.join([*program, *words])",
        '" ".join([*program, *words])',
        _attack("names", "test_no_shell_obeys_a_batch_script"),
    ),
    Guard(
        "settings of a batch script are one line",
        "pipelines/slurm_script.py",
        "            if not _DIRECTIVE.fullmatch(directive):",
        "            if False:",
        _attack("names", "test_no_setting_is_a_line_of_a_batch_script"),
    ),
    Guard(
        "control characters in listings",
        "pipelines/progress.py",
        "    if text.isprintable():\n        return text\n",
        "    return text\n",
        _attack("names", "test_no_terminal_obeys_what_a_store_says"),
    ),
    Guard(
        "control characters in lists for scripts",
        "pipelines/progress.py",
        "    return _OBEYED.sub(",
        "    return text or _OBEYED.sub(",
        _attack("names", "test_no_terminal_obeys_what_a_store_says"),
    ),
    Guard(
        "control characters in errors",
        "pipelines/cli/__init__.py",
        'f"vadx: {_harmless(str(error))}"',
        'f"vadx: {error}"',
        "tests/pipelines/test_command_line.py::test_no_terminal_obeys_a_name_in_an_error",
    ),
    Guard(
        "texts of a page are escaped",
        "pipelines/report_page.py",
        "        autoescape=True,\n",
        "        autoescape=False,\n",
        "tests/pipelines/test_report_page.py::test_hostile_names_are_text_wherever_they_stand",
    ),
    Guard(
        "a video is the one that was looked at",
        "pipelines/source.py",
        "        if self._seen is not None and _identity(status) != _identity(self._seen):",
        "        if False:",
        "tests/pipelines/test_source.py::test_a_file_that_changes_under_the_reader_is_noticed",
    ),
    Guard(
        "videos with one id are told apart",
        "features/keys.py",
        "if len(group) > 1 for",
        "if len(group) > 99 for",
        "tests/features/test_keys.py::test_ids_that_cannot_be_told_apart_are_found",
    ),
)
"""Every guard whose removal is tried."""


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of what tests need. It is another package than the installed one: see `run_tests`."""
    with tempfile.TemporaryDirectory(prefix="vadx-sabotage-", ignore_cleanup_errors=True) as name:
        copy = Path(name) / "vadx"
        copy.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".test-cache")
        for part in COPIED:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, copy / part, symlinks=True, ignore=ignored)
            else:
                shutil.copy(source, copy / part)
        yield copy


def without(guard: Guard, root: Path = REPOSITORY) -> str:
    """Give a file's text without a guard. Raises `ValueError` unless what is removed stands there once."""
    text = (root / guard.file).read_text()
    if text.count(guard.old) != 1:
        msg = f"{guard.name}: what it removes stands {text.count(guard.old)} times in {guard.file}"
        raise ValueError(msg)
    return text.replace(guard.old, guard.new)


def run_tests(copy: Path, tests: Sequence[str], *, shows: bool = False) -> int | None:
    """Run tests of a copy, with pytest's own output or without; gives its exit code, None where they did not end."""
    paths = [str(copy / "src"), str(copy / "tests" / "plugins")]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("VADX_", "PYTEST_"))},
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "VADX_TEST_CACHE": os.environ.get("VADX_TEST_CACHE", str(REPOSITORY / ".test-cache")),
    }
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--durations=0", "--timeout=60"]
    try:
        done = subprocess.run(
            [*words, *tests], cwd=copy, env=environment, capture_output=not shows, timeout=TEST_SECONDS * len(tests)
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def turns_red(guard: Guard, copy: Path) -> bool:
    """Whether a guard's test fails without it. Raises `ValueError` where it cannot even be run."""
    path = copy / guard.file
    before = path.read_text()
    path.write_text(without(guard, copy))
    _forget_compiled(path)
    try:
        code = run_tests(copy, [guard.test])
    finally:
        path.write_text(before)
        _forget_compiled(path)
    if code not in (0, 1, None):
        msg = f"{guard.name}: pytest ended with {code}; is {guard.test} a test, and the changed file Python?"
        raise ValueError(msg)
    return code != 0


def _forget_compiled(path: Path) -> None:
    # Python tells an old compiled module by its source's size and second.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def try_all(guards: Sequence[Guard], num_jobs: int) -> int:
    """Try guards in copies of their own; gives the number of those whose test stayed green."""
    num_green = 0
    free: SimpleQueue[Path] = SimpleQueue()

    def one(guard: Guard) -> bool:
        copy = free.get()
        try:
            return turns_red(guard, copy)
        finally:
            free.put(copy)

    with _filled(num_jobs, free), ThreadPoolExecutor(num_jobs) as pool:
        for guard, is_red in zip(guards, pool.map(one, guards), strict=True):
            num_green += not is_red
            said = "red        " if is_red else "STILL GREEN"
            print(f"{said}  {guard.name}  ({guard.file})  {guard.test}", flush=True)
    return num_green


@contextmanager
def _filled(num_jobs: int, free: SimpleQueue[Path]) -> Iterator[None]:
    """Fill a queue with copies."""
    with ExitStack() as stack:
        for _ in range(num_jobs):
            free.put(stack.enter_context(copied()))
        yield


def table() -> str:
    """Give the table of guards as the page on threats shows it."""
    rows = [f"| {g.name} | `{g.file}` | `{g.test.rpartition('::')[2].partition('[')[0]}` |" for g in GUARDS]
    return "\n".join(["| Removed | From | Turns red |", "|---|---|---|", *rows, ""])


def main() -> int:
    """Try the guards that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("words", nargs="*", help="only guards whose name or file holds one of these")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--table", action="store_true", help="only print the table of docs/threats.md")
    options = parser.parse_args()
    if options.table:
        print(table(), end="")
        return 0
    guards = [g for g in GUARDS if not options.words or any(w in f"{g.name} {g.file}" for w in options.words)]
    with copied() as copy:
        code = run_tests(copy, sorted({guard.test for guard in guards}), shows=True)
    if code != 0:
        print(f"the tests are not green with all guards in place (pytest: {code}): see to that first", file=sys.stderr)
        return 1
    num_green = try_all(guards, options.jobs)
    print(f"{len(guards)} guards removed one at a time: {len(guards) - num_green} tests red, {num_green} still green")
    return 1 if num_green else 0


if __name__ == "__main__":
    sys.exit(main())
