"""Which test covers which hazard of the catalogue, H001 to H245.

A row is covered by tests: ``file::test``, relative to tests/, or ``file::test[Hnnn`` for the
cases of a table that begin with the id. Tests that bear an id in their name (``test_h137_...``)
are found by it and need no entry here. A row that nothing of the package can meet yet is
`Later`, with the reason. What each row asks for, and where we differ on purpose, is in
docs/hazards.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

__all__ = ["HAZARDS", "INGEST", "Later"]

#: Rows that ingest decides or has to survive: sections 1 to 9 of the catalogue.
INGEST = range(1, 216)


class Later(str):
    """Why a row is not covered yet."""

    __slots__ = ()


_TABLE = "faults/test_hazards_ingest.py::test_hazard_has_its_verdict_and_code"
_SKY = "faults/test_hazards_ingest.py::test_world_coordinates_are_believed_only_if_sane"
_INGEST = "faults/test_hazards_ingest.py::"
_WORDS = "faults/test_hazards_vocabulary.py::"
_NAMES = "faults/test_hazards_names.py::"
_PLACE = "faults/test_hazards_environment.py::"
_DETECTOR = "faults/test_hazards_detector.py::"
_TEXTS = _NAMES + "test_header_text_gives_safe_names_and_survives_the_sheet"
_LOCALE = _PLACE + "test_surroundings_change_no_byte_of_the_sheet"

_PROGRAMS = "unit/test_programs.py::"
_REMOTE = "unit/test_remote_catalogs.py::"

#: Rows whose cases are rows of the tables: first and last id.
_IN_TABLE = [
    *range(1, 35), 36, *range(39, 68), *range(69, 78), *range(79, 82), 84, 115, 117,
    *range(120, 124), 125, *range(128, 131), 133, 136, *range(138, 141), *range(142, 149), 151,
]  # fmt: skip
_IN_SKY = [*range(85, 112), 114]

_MORE: dict[int, tuple[str, ...] | Later] = {
    # Structure and values
    18: (
        _DETECTOR + "test_h018_h137_flipped_amplifiers_assemble_exactly",
    ),
    23: (
        _DETECTOR + "test_h023_planes_of_a_cube_are_frames_with_a_time_each",
    ),
    32: (_WORDS + "test_h032_h033_lossy_pixels_name_their_method_and_writer",),
    33: (_WORDS + "test_h032_h033_lossy_pixels_name_their_method_and_writer",),
    34: (_INGEST + "test_h034_wrong_checksum_may_be_a_flag",),
    35: (_INGEST + "test_h035_compressed_bomb_stops_at_the_limit",),
    37: (_INGEST + "test_h037_very_long_header_is_flagged_and_read",),
    38: (
        _INGEST + "test_h038_cut_file_that_is_young_is_growing",
        _PLACE + "test_h038_growing_file_is_read_again_when_it_is_whole",
        "unit/test_io_raw.py::test_file_that_grows_while_it_is_read_is_told",
    ),
    41: (
        _DETECTOR + "test_h041_lost_bzero_is_restored_by_an_override",
        _DETECTOR + "test_h041_bias_with_a_negative_level_is_rejected",
    ),
    59: (_WORDS + "test_h059_long_keywords_are_read_and_never_written",),
    66: (_WORDS + "test_h066_one_file_with_another_type_does_not_change_the_others",),
    68: (_INGEST + "test_h068_equal_times_are_flagged",),
    # Times
    77: (_WORDS + "test_h077_local_time_is_moved_by_the_offset_of_the_instrument",),
    78: (_WORDS + "test_h078_time_convention_is_that_of_the_instrument",),
    81: (_WORDS + "test_h081_dynamical_time_becomes_utc",),
    82: (_INGEST + "test_h082_night_does_not_break_at_utc_midnight",),
    83: (_WORDS + "test_h083_equal_times_stay_two_frames_with_hashes_of_their_own",),
    84: (_WORDS + "test_h084_side_of_the_longitude_is_understood",),
    # World coordinates
    104: ("unit/test_headers.py::test_galactic_axes_become_equatorial",),
    108: ("unit/test_headers.py::test_old_equinox_is_precessed",),
    111: ("unit/test_headers.py::test_fields_at_the_poles_and_across_zero_hours_are_accepted",),
    112: (
        "unit/test_astrometry.py::"
        "test_a_wrong_catalogue_is_refused_and_the_header_is_not_claimed_to_be_checked",
    ),
    113: ("unit/test_astrometry.py::test_a_mirrored_frame_is_solved_unless_that_is_switched_off",),
    # Vocabulary
    115: (_WORDS + "test_kind_is_understood_in_every_vocabulary[H115",),
    116: (_WORDS + "test_kind_is_understood_in_every_vocabulary[H116",),
    117: (
        _WORDS + "test_kind_is_understood_in_every_vocabulary[H117",
        _WORDS + "test_h117_h119_other_kinds_are_no_science",
    ),
    118: (_WORDS + "test_kind_is_understood_in_every_vocabulary[H118",),
    119: (
        _WORDS + "test_kind_is_understood_in_every_vocabulary[H119",
        _WORDS + "test_h117_h119_other_kinds_are_no_science",
    ),
    120: (_WORDS + "test_h120_bias_data_with_light_in_the_header_are_flagged",),
    123: (_WORDS + "test_h123_folder_tells_the_kind_through_the_overrides",),
    124: (_WORDS + "test_h124_exposure_is_found_under_every_name",),
    125: (_WORDS + "test_h125_unit_of_the_exposure_belongs_to_the_instrument",),
    126: (
        _WORDS + "test_filter_is_found_and_its_case_is_kept[H126",
        _WORDS + "test_h126_clear_positions_of_a_second_wheel_are_passed_over",
    ),
    127: (_WORDS + "test_filter_is_found_and_its_case_is_kept[H127",),
    130: (_WORDS + "test_h130_gain_of_a_read_out_mode_comes_from_the_instrument",),
    131: (_WORDS + "test_h131_added_levels_keep_frames_apart",),
    132: (_WORDS + "test_h132_read_out_mode_is_part_of_the_key",),
    133: (_WORDS + "test_h133_temperatures_group_by_the_set_point",),
    134: (
        _WORDS + "test_h134_binning_is_read_in_every_form",
        _INGEST + "test_h134_half_size_frame_with_the_same_binning_is_flagged",
    ),
    135: (_WORDS + "test_h135_sub_frame_is_told_from_a_full_frame",),
    136: (_DETECTOR + "test_h136_section_runs_in_fits_order_from_one",),
    137: (
        _DETECTOR + "test_h018_h137_flipped_amplifiers_assemble_exactly",
        _DETECTOR + "test_h137_amplifier_that_does_not_fit_its_place_is_rejected",
        "unit/test_io_raw.py::test_h137_frame_of_several_amplifiers_reads_the_images_they_name",
    ),
    138: (
        _DETECTOR + "test_h138_colours_of_a_mosaic_become_frames_of_their_own",
        _DETECTOR + "test_h138_mosaic_with_white_pixels_is_no_monochrome_frame",
        _DETECTOR + "test_h138_mosaic_is_rejected_where_the_instrument_does_not_split",
    ),
    139: (_WORDS + "test_h139_spellings_of_a_target_are_joined_by_the_alias_table",),
    140: (_WORDS + "test_h140_unknown_camera_is_read_by_common_keywords",),
    141: (_WORDS + "test_h141_pointing_is_read_by_form",),
    # Pixels
    146: (_TABLE + "[H146", "unit/test_calibrate_kernel.py::test_all_terms_follow_the_noise_model"),
    148: (
        _TABLE + "[H148",
        "unit/test_readout.py::test_missing_saturation_is_that_of_the_data_type",
    ),
    149: ("unit/test_mask.py::test_saturated_pixels_grow_by_a_disk",),
    150: ("unit/test_mask.py::test_charge_that_bled_along_a_column_is_followed_to_its_end",),
    152: (_INGEST + "test_h152_light_that_looks_like_bias_is_flagged",),
    153: (
        "unit/test_master_flat.py::test_saturated_and_faint_flats_are_rejected",
        "unit/test_master_flat.py::test_gradient_of_one_flat_is_flagged",
        "unit/test_master_flat.py::test_star_in_one_of_three_flats_is_removed_with_its_wings",
    ),
    154: (
        "unit/test_master_flat.py::test_missing_bias_is_a_policy_and_a_pedestal_is_never_accepted",
    ),
    155: (
        "unit/test_master_dark.py::test_light_leak_is_rejected",
        "unit/test_master_bias.py::test_single_hits_are_removed_and_counted",
        "unit/test_master_bias.py::test_step_within_a_frame_and_noisy_frame_are_rejected",
    ),
    156: (
        "unit/test_master_bias.py::test_two_camps_are_a_jump_and_the_larger_one_wins",
        "unit/test_master_bias.py::test_pattern_is_recovered_although_the_level_drifts",
    ),
    157: ("unit/test_artefacts.py::test_a_sine_along_the_rows_is_measured",),
    158: ("unit/test_sources.py::test_trailed_stars_are_flagged",),
    159: (
        "unit/test_sources.py::test_empty_sky_gives_an_empty_table_and_a_code",
        "unit/test_sources.py::test_single_star_is_few_stars",
        "unit/test_sources.py::test_dense_cluster_is_resolved_against_its_own_light",
    ),
    160: ("truth/test_stack_pulls.py::test_bright_trail_in_one_of_many_frames_leaves_nothing",),
    161: (
        "unit/test_mask.py::test_at_most_one_star_core_in_a_thousand_is_taken_for_a_hit",
        "unit/test_mask.py::test_cores_of_undersampled_stars_survive",
    ),
    162: ("unit/test_photcal.py::test_throughput_against_the_reference_frame",),
    163: ("unit/test_background.py::test_steep_sky_is_flagged",),
    164: (_DETECTOR + "test_h164_difference_of_unsigned_pixels_does_not_wrap",),
    165: (
        _DETECTOR + "test_h165_pixels_are_native_and_writeable",
        "unit/test_frame.py::test_big_endian_input_becomes_native_float32",
    ),
    166: ("unit/test_calibrate_kernel.py::test_bad_values_become_nan_with_a_bit",),
    167: (
        "unit/test_background.py::test_frame_without_a_good_pixel_fails",
        "unit/test_background.py::test_dead_quarter_is_bridged_from_its_neighbours",
    ),
    168: ("unit/test_stack.py::test_holes_are_nan_and_say_why",),
    # Identity
    169: (
        _INGEST + "test_h169_h170_copies_are_rejected_whatever_their_compression",
        _INGEST + "test_h169_a_broken_file_is_no_original",
    ),
    170: (_INGEST + "test_h169_h170_copies_are_rejected_whatever_their_compression",),
    171: (_INGEST + "test_h171_h176_equal_names_and_times_of_two_cameras_are_two_frames",),
    172: (_INGEST + "test_h172_equal_pixels_under_another_header_are_flagged",),
    173: (_NAMES + "test_h173_products_in_the_raw_tree_are_not_used_again",),
    174: (_NAMES + "test_h174_names_that_differ_in_case_only_make_different_files",),
    175: (_NAMES + "test_h175_composed_and_decomposed_letters_are_one_name",),
    176: (_INGEST + "test_h171_h176_equal_names_and_times_of_two_cameras_are_two_frames",),
    177: (
        _NAMES + "test_h177_another_header_is_another_content",
        "workflow/test_workflow.py::test_a_changed_row_of_the_sheet_reruns_its_block_only",
    ),
    # Injection
    **{number: (f"{_TEXTS}[H{number}",) for number in (178, 179, 180, 181, 182, 185, 188, 189)},
    183: (
        _INGEST + "test_h183_control_characters_do_not_reach_the_sheet",
        _NAMES + "test_h183_h186_sheet_has_no_formula_and_one_line_per_row",
    ),
    184: (f"{_TEXTS}[H184", _NAMES + "test_h184_names_of_any_script_are_short_and_plain"),
    186: (
        f"{_TEXTS}[H186",
        _NAMES + "test_h183_h186_sheet_has_no_formula_and_one_line_per_row",
        "unit/test_sheet.py::test_formulas_are_disarmed_and_read_back",
    ),
    187: (f"{_TEXTS}[H187", "unit/test_report.py::test_header_text_never_becomes_markup"),
    190: (_NAMES + "test_h190_a_group_for_each_frame_is_refused_with_a_hint",),
    # File system and environment
    191: (_PLACE + "test_h191_file_that_cannot_be_opened_is_rejected_and_read_again",),
    192: (_INGEST + "test_h192_unreadable_folder_is_told",),
    193: (_INGEST + "test_h193_links_are_followed_only_inside_or_on_request",),
    194: (_INGEST + "test_h194_pipes_and_folders_never_block",),
    195: (_INGEST + "test_h195_h196_odd_names_are_accepted_or_rejected",),
    196: (_INGEST + "test_h195_h196_odd_names_are_accepted_or_rejected",),
    197: (_PLACE + "test_h197_modification_time_decides_nothing",),
    198: (
        _INGEST + "test_h198_h199_file_that_vanishes_or_changes_is_told_at_reading",
        "unit/test_master_bias.py::test_unreadable_frame_does_not_stop_the_others",
    ),
    199: (_INGEST + "test_h198_h199_file_that_vanishes_or_changes_is_told_at_reading",),
    200: (
        "unit/test_cli_run.py::test_results_that_cannot_be_written_stop_before_anything_runs",
        "unit/test_cli_run.py::test_a_read_only_results_folder_stops_before_anything_runs",
    ),
    201: (
        _PLACE + "test_h201_full_disk_leaves_the_earlier_sheet",
        "unit/test_io.py::test_full_disk_leaves_nothing_behind",
    ),
    202: (_PLACE + "test_h202_few_open_files_are_enough",),
    203: (_PLACE + "test_h203_memory_of_a_job_grows_with_each_attempt",),
    204: (_PLACE + "test_h204_killed_at_any_moment_leaves_nothing_half_written",),
    205: (_PLACE + "test_h205_sheet_is_on_the_disk_before_it_has_its_name",),
    206: (_PLACE + "test_h206_temporary_files_of_a_dead_run_are_no_data",),
    207: (
        _PLACE + "test_h207_two_scans_at_once_agree",
        "unit/test_cli_run.py::test_a_stale_lock_is_explained_with_the_command_that_removes_it",
    ),
    208: (_PLACE + "test_h208_slow_file_systems_are_waited_for",),
    209: (
        _PLACE + "test_h209_closed_port_is_unreachable_and_no_empty_sky",
        _PLACE + "test_h209_server_that_never_answers_is_given_up",
        _REMOTE + "test_unreachable_is_tried_again_a_stated_number_of_times_and_never_kept",
        _REMOTE + "test_empty_is_an_answer_and_is_kept",
        _REMOTE + "test_policy_decides_whether_a_field_goes_on_without_its_catalogue",
    ),
    210: (
        _PROGRAMS + "test_h210_missing_program_is_told_with_its_names_and_purpose",
        _PROGRAMS + "test_h210_other_name_is_found_and_the_version_recorded",
        _PROGRAMS + "test_h210_program_that_is_too_old_is_refused",
        _REMOTE + "test_missing_client_is_told_before_a_run_unless_answers_are_kept",
    ),
    211: (
        _PROGRAMS + "test_h211_failure_of_a_program_is_seen_whatever_it_returns",
        _PROGRAMS + "test_h211_success_needs_the_output",
    ),
    212: ("unit/test_cli_run.py::test_threads_are_pinned",),
    213: (f"{_LOCALE}[H213",),
    214: (f"{_LOCALE}[H214", "faults/test_fuzz.py::test_h214_no_spoilt_file_escapes"),
    215: (f"{_LOCALE}[H215",),
    # Calibration and run time
    216: (
        "unit/test_calibrate.py::test_missing_masters_follow_the_policy",
        "unit/test_plan.py::test_a_missing_flat_is_said_with_what_is_there",
    ),
    217: (
        "unit/test_master_bias.py::test_too_few_frames_fail_with_all_numbers",
        "unit/test_master_bias.py::test_one_frame_uses_the_declared_noise",
    ),
    218: (
        "unit/test_plan.py::test_calibration_of_another_size_is_rejected_with_both_sizes",
        "unit/test_calibrate.py::test_wrong_size_and_wrong_unit_are_refused",
    ),
    219: (
        "unit/test_plan.py::test_darks_are_exact_or_scaled_down",
        "unit/test_calibrate.py::test_dark_scaled_up_is_flagged_and_equal_exposures_are_not_scaled",
    ),
    220: ("unit/test_plan.py::test_warm_darks_are_not_used",),
    221: (
        "unit/test_plan.py::test_nearest_night_wins_and_the_earlier_one_of_two",
        "unit/test_plan.py::test_the_window_is_never_exceeded",
    ),
    222: ("unit/test_plan.py::test_a_missing_flat_is_said_with_what_is_there",),
    223: ("unit/test_master_flat.py::test_saturated_and_faint_flats_are_rejected",),
    224: ("unit/test_master_bias.py::test_unreadable_frame_does_not_stop_the_others",),
    225: (_NAMES + "test_h225_no_calibration_frame_corrects_itself",),
    227: (_NAMES + "test_h227_a_target_without_frames_takes_nothing_from_the_others",),
    228: ("unit/test_stack.py::test_one_frame_is_passed_on",),
    229: ("unit/test_stack.py::test_two_frames_that_contradict_keep_the_lower_and_say_so",),
    230: ("unit/test_grid.py::test_frame_beside_the_field_has_no_overlap",),
    231: (
        "unit/test_grid.py::test_frame_with_a_wrong_position_does_not_blow_up_the_canvas",
        "unit/test_grid.py::test_too_large_a_grid_is_refused_before_it_is_made",
    ),
    232: ("unit/test_astrometry.py::test_failures_have_codes_and_say_what_was_found",),
    233: (
        "unit/test_matching.py::test_wrong_lists_give_no_false_solution_with_any_rotation",
        "unit/test_matching.py::test_an_ambiguous_pattern_is_refused",
    ),
    234: (
        "unit/test_photcal.py::test_without_what_it_needs_the_zero_point_is_missing_and_said_so",
    ),
    235: ("unit/test_photcal.py::test_a_third_of_wrong_stars_does_not_move_the_zero_point",),
    236: (
        "unit/test_apertures.py::test_aperture_across_the_edge_says_so",
        "unit/test_photometry.py::test_every_position_has_a_row_and_its_flags",
    ),
    237: (
        "unit/test_apertures.py::test_central_pixel_masked_gives_no_flux",
        "unit/test_lightcurves.py::test_a_lost_measurement_is_a_row_with_flags",
    ),
    238: (
        "unit/test_io.py::test_nan_without_mask_bit_is_refused_and_the_earlier_file_survives",
        "unit/test_io.py::test_error_of_zero_is_refused",
    ),
    239: ("unit/test_background.py::test_small_frames_get_smaller_boxes",),
    240: ("unit/test_lightcurves.py::test_too_few_frames_make_no_light_curve",),
    241: ("unit/test_settings.py::test_mistakes_are_said_in_one_line",),
    242: (_NAMES + "test_h242_folders_without_lights_or_without_anything_are_told",),
    243: (
        "workflow/test_workflow.py::test_a_changed_setting_reruns_what_depends_on_it",
        "unit/test_plan.py::test_another_night_leaves_the_identifiers_of_the_first_alone",
    ),
    244: (
        "workflow/test_identical.py::test_cores_and_folder_change_no_byte",
        "unit/test_plan.py::test_order_of_the_rows_does_not_matter",
    ),
    245: ("unit/test_ingest.py::test_an_override_that_matches_nothing_is_an_error_by_name",),
}  # fmt: skip


_ID = re.compile(r"_h(\d{3})[a-z]?(?=_)")
_TESTS = Path(__file__).resolve().parents[1]


def _functions() -> dict[str, list[str]]:
    """Return the test functions of each file under tests/."""
    return {
        path.relative_to(_TESTS).as_posix(): re.findall(
            r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        for path in sorted(_TESTS.glob("*/test_*.py"))
    }


def _named(functions: dict[str, list[str]]) -> dict[int, list[str]]:
    """Return tests by the ids in their names."""
    found: dict[int, list[str]] = defaultdict(list)
    for file, names in functions.items():
        for name in names:
            for number in _ID.findall(name):
                found[int(number)].append(f"{file}::{name}")
    return found


def _real(node: str, functions: dict[str, list[str]]) -> str:
    """Return the node under the name that its function has now, with or without ids."""
    file, _, rest = node.partition("::")
    name, bracket, case = rest.partition("[")
    plain = _ID.sub("", name)
    same = [one for one in functions.get(file, []) if _ID.sub("", one) == plain]
    return f"{file}::{same[0]}{bracket}{case}" if same and name not in same else node


def _hazards() -> dict[str, tuple[str, ...] | Later]:
    functions = _functions()
    named = _named(functions)
    found: dict[str, tuple[str, ...] | Later] = {}
    for number in range(1, 246):
        name = f"H{number:03d}"
        more = _MORE.get(number, ())
        if isinstance(more, Later):
            found[name] = more
            continue
        table = [f"{_TABLE}[{name}"] if number in _IN_TABLE else []
        table += [f"{_SKY}[{name}"] if number in _IN_SKY else []
        declared = [_real(node, functions) for node in more]
        tests = tuple(dict.fromkeys([*table, *declared, *named[number]]))
        if tests:
            found[name] = tests
    return found


#: Id to the tests that cover it, or why there is none.
HAZARDS = _hazards()
