-- JSON Merge Patch, RFC 7396: members of the patch replace those of the target, null removes one, objects are merged.
create or replace function longshore.merge_patch(p_target jsonb, p_patch jsonb)
returns jsonb
language plpgsql immutable
set search_path = longshore, pg_temp
as $merge_patch$
declare
    m record;
    v_merged jsonb := case when jsonb_typeof(p_target) = 'object' then p_target else '{}' end;
begin
    if jsonb_typeof(p_patch) is distinct from 'object' then
        return p_patch;
    end if;
    for m in select key, value from jsonb_each(p_patch) loop
        if m.value = 'null' then
            v_merged := v_merged - m.key;
        else
            v_merged := v_merged || jsonb_build_object(m.key, longshore.merge_patch(v_merged -> m.key, m.value));
        end if;
    end loop;
    return v_merged;
end
$merge_patch$;
