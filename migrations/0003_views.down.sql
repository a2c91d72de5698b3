drop view longshore.execution_steps, longshore.step_leases;
