"""What PostgreSQL can do, as SQLAlchemy's compliance suite puts it: the more is open, the more of its tests run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import __version__
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

__all__ = ["PostgresRequirements"]

# Closed in the suite unless a dialect opens them. Older versions of SQLAlchemy do not know all of these names.
_SUPPORTED = """
    aggregate_order_by array_type autocommit check_constraint_reflection column_collation_reflection comment_reflection
    comment_reflection_full_unicode computed_columns computed_columns_default_persisted
    computed_columns_reflect_persisted computed_columns_stored constraint_comment_reflection create_or_replace_view
    create_table_as create_temp_table_as cross_schema_fk_reflection ctes ctes_on_dml ctes_with_update_delete
    ctes_with_values date_historic datetime_historic datetime_interval datetime_literals datetime_timezone
    datetime_timezone_historic default_schema_name_switch deferrable_fks delete_from except_ expression_server_defaults
    fetch_expression fetch_first fetch_no_order_by fetch_offset_with_options fetch_ties
    fk_constraint_option_reflection_ondelete_noaction fk_constraint_option_reflection_ondelete_restrict
    fk_constraint_option_reflection_onupdate_restrict float_or_double_precision_behaves_generically
    foreign_key_constraint_name_reflection foreign_key_constraint_option_reflection_ondelete
    foreign_key_constraint_option_reflection_onupdate has_temp_table identity_columns identity_columns_standard
    implicit_default_schema index_ddl_if_exists index_reflects_included_columns indexes_check_column_order
    indexes_with_expressions infinity_floats inline_check_constraint_reflection intersect isolation_level json_type
    materialized_views nullsordering percent_schema_names precision_numerics_enotation_small
    precision_numerics_many_significant_digits precision_numerics_retains_significant_digits
    reflect_indexes_with_expressions reflect_tables_no_columns reflects_pk_names regexp_match regexp_replace
    repeated_column_foreign_keys savepoints schema_create_delete server_defaults skip_autocommit_rollback
    supports_bitwise_and supports_bitwise_not supports_bitwise_or supports_bitwise_shift supports_bitwise_xor
    supports_distinct_on table_ddl_if_exists table_value_constructor temp_table_comment_reflection temp_table_names
    temporary_views time_timezone timestamp_microseconds tuple_in two_phase_transactions unicode_ddl
    unique_constraints_reflect_as_index update_from uuid_data_type views window_functions window_range
    window_range_non_numeric window_range_numeric
"""


class PostgresRequirements(SuiteRequirements):
    """The suite's requirements, with what PostgreSQL supports opened."""

    @property
    def reflect_table_options(self) -> Any:
        """The dialect can since SQLAlchemy 2.1."""
        return exclusions.only_if(lambda config: "get_multi_table_options" in vars(PGDialect))

    @property
    def json_deserializer_binary(self) -> Any:
        """SQLAlchemy 2.0 hands the bytes on that psycopg gives it."""
        return exclusions.only_if(lambda config: config.db.driver == "psycopg" and __version__.startswith("2.0."))

    def get_order_by_collation(self, config: Any) -> str:
        """Name a collation that every server has."""
        return "POSIX"


for _name in _SUPPORTED.split():
    setattr(PostgresRequirements, _name, property(lambda self: exclusions.open()))
