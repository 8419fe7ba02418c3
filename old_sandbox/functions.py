"""Functions by name: which of them write nothing, which belong to a connection."""

from __future__ import annotations

# Those that everybody calls and that write nothing, with the words that stand before a parenthesis. Any other may be
# one that writes.
# fmt: off
HARMLESS_FUNCTIONS = frozenset({
    "abs", "all", "and", "any", "array", "array_agg", "array_length", "array_to_string", "as", "avg", "between",
    "bit_length", "bool_and", "bool_or", "btrim", "by", "cast", "ceil", "ceiling", "char_length", "coalesce",
    "col_description", "concat", "concat_ws", "conflict", "count", "cume_dist", "current_database", "current_schema",
    "current_schemas", "current_setting", "currval", "date", "date_part", "date_trunc", "dense_rank", "distinct",
    "else", "encode", "every", "exists", "extract", "filter", "first_value", "floor", "format", "format_type", "from",
    "gen_random_uuid", "generate_series", "generate_subscripts", "greatest", "group", "hashtext", "hashtextextended",
    "ilike", "in", "inet", "initcap", "json_agg", "json_build_array", "json_build_object", "json_each",
    "json_extract_path_text", "json_object_agg", "jsonb_agg", "jsonb_array_elements", "jsonb_build_object",
    "jsonb_each", "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_object_agg", "lag",
    "last_value", "lastval", "lead", "least", "left", "length", "like", "limit", "lower", "lpad", "ltrim",
    "make_date", "make_interval", "max", "md5", "min", "mod", "nextval", "not", "now", "nth_value", "ntile", "nullif",
    "numeric", "obj_description", "octet_length", "offset", "on", "or", "order", "over", "overlay", "partition",
    "percent_rank", "percentile_cont", "pg_backend_pid", "pg_get_constraintdef", "pg_get_expr", "pg_get_indexdef",
    "pg_get_serial_sequence", "pg_get_userbyid", "pg_get_viewdef", "pg_sleep", "pg_table_is_visible",
    "pg_type_is_visible", "pg_typeof", "plainto_tsquery", "position", "power", "quote_ident", "quote_literal",
    "random", "rank", "regexp_match", "regexp_matches", "regexp_replace", "repeat", "replace", "returning", "right",
    "round", "row", "row_number", "row_to_json", "rpad", "rtrim", "select", "set", "some", "split_part", "sqrt",
    "starts_with", "string_agg", "string_to_array", "substr", "substring", "sum", "then", "to_char", "to_date",
    "to_json", "to_jsonb", "to_number", "to_timestamp", "to_tsquery", "to_tsvector", "translate", "trim", "trunc",
    "unnest", "upper", "using", "values", "varchar", "version", "websearch_to_tsquery", "when", "where",
    "width_bucket", "within",
})
# fmt: on


def is_private(function: str) -> bool:
    """Whether a function is one of those that take advisory locks, or sends a notification."""
    return "advisory" in function or function == "pg_notify"
