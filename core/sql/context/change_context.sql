-- A context after these changes, one after the other: [{"op": "set" | "append" | "increment", "path": ["a", "b"], "value": …}, {"op": "merge", "value": {…}}].
-- Objects on the way to a path are made. Error LS020: a change does not fit what is there; LS021: the context would be larger than 1 MiB.
create or replace function longshore.change_context(p_context jsonb, p_changes jsonb)
returns jsonb
language plpgsql immutable
set search_path = longshore, pg_temp
as $change_context$
declare
    c record;
    v_context jsonb := p_context;
    v_there jsonb;
    v_bytes int;
begin
    for c in select t.op, t.path, t.value from jsonb_to_recordset(p_changes) t (op text, path text[], value jsonb) loop
        if c.op = 'merge' then
            v_context := longshore.merge_patch(v_context, coalesce(c.value, 'null'));
            continue;
        end if;
        for i in 1 .. cardinality(c.path) - 1 loop
            v_there := v_context #> c.path[:i];
            if coalesce(v_there, 'null') = 'null' then
                v_context := jsonb_set(v_context, c.path[:i], '{}');
            elsif jsonb_typeof(v_there) <> 'object' then
                raise exception 'the context has no object at %', array_to_string(c.path[:i], '.') using errcode = 'LS020';
            end if;
        end loop;
        v_there := coalesce(v_context #> c.path, 'null');
        c.value := coalesce(c.value, 'null');
        if c.op = 'append' then
            if jsonb_typeof(v_there) not in ('null', 'array') then
                raise exception 'the context has no list at %', array_to_string(c.path, '.') using errcode = 'LS020';
            end if;
            c.value := case when v_there = 'null' then '[]' else v_there end || jsonb_build_array(c.value);
        elsif c.op = 'increment' then
            if jsonb_typeof(v_there) not in ('null', 'number') then
                raise exception 'the context has no number at %', array_to_string(c.path, '.') using errcode = 'LS020';
            elsif jsonb_typeof(c.value) <> 'number' then
                raise exception 'what % is to be incremented by is no number', array_to_string(c.path, '.') using errcode = 'LS020';
            end if;
            c.value := to_jsonb(case when v_there = 'null' then 0 else v_there::numeric end + c.value::numeric);
        end if;
        v_context := jsonb_set(v_context, c.path, c.value);
    end loop;
    v_bytes := octet_length(v_context::text);
    if v_bytes > 1048576 then
        raise exception 'the context would have % bytes, at most 1048576 are kept', v_bytes using errcode = 'LS021',
            hint = 'keep large data elsewhere, and in the context where it is';
    elsif jsonb_typeof(v_context) <> 'object' then
        raise exception 'a context is an object' using errcode = 'LS020';
    end if;
    return v_context;
end
$change_context$;
