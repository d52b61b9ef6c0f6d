#!/bin/bash
@directives

# Slurm signals the step before a preemption and before the time is over; some sites signal this script instead.
worker="" asked=no
trap 'asked=yes; kill -USR1 $worker 2>/dev/null' USR1 USR2 TERM
@setup
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
died=@logs/$task.died

code=143
if [ $asked = no ]; then
  srun --mpi=none --ntasks=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \
    @worker --shard "$SLURM_ARRAY_TASK_ID/@shards" &
  worker=$!
  [ $asked = no ] || kill -USR1 $worker
  while kill -0 $worker 2>/dev/null; do wait $worker; done
  wait $worker
  code=$?
fi

# In any other state it was cancelled, or Slurm requeues it by itself.
case $(squeue --noheader --states=all --jobs="$task" --format="%T %r" || echo RUNNING) in
  RUNNING* | *Preempt* | *TimeLimit) goes_on=yes ;;
  *) goes_on=no ;;
esac
case $code-$goes_on in
  0-* | 2-* | 130-* | *-no) exit $code ;; # done, refused, stopped by a person
  138-* | 140-* | 143-*) otherwise="sleep infinity" ;; # it was asked to stop: without scontrol it waits to be preempted
  *)
    otherwise="exit $code"
    echo "exit code $code" >>"$died"
    [ "$(wc -l <"$died")" -le @restarts ] || exit $code
    ;;
esac
@requeue
