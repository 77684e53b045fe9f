"""What visits the sites, and how the sum of the answers is combined."""

from locum.tasks import adapt as _adapt  # noqa: F401 - importing a module registers its tasks
from locum.tasks import boosting as _boosting  # noqa: F401
from locum.tasks import check as _check  # noqa: F401
from locum.tasks import combat as _combat  # noqa: F401
from locum.tasks import cox as _cox  # noqa: F401
from locum.tasks import discrete_time as _discrete_time  # noqa: F401
from locum.tasks import drift as _drift  # noqa: F401
from locum.tasks import elastic_net as _elastic_net  # noqa: F401
from locum.tasks import evaluate_binary as _evaluate_binary  # noqa: F401
from locum.tasks import evaluate_categories as _evaluate_categories  # noqa: F401
from locum.tasks import evaluate_survival as _evaluate_survival  # noqa: F401
from locum.tasks import event_times as _event_times  # noqa: F401
from locum.tasks import fedavg as _fedavg  # noqa: F401
from locum.tasks import forecast as _forecast  # noqa: F401
from locum.tasks import genotype_pca as _genotype_pca  # noqa: F401
from locum.tasks import glm as _glm  # noqa: F401
from locum.tasks import gwas as _gwas  # noqa: F401
from locum.tasks import histogram as _histogram  # noqa: F401
from locum.tasks import impute as _impute  # noqa: F401
from locum.tasks import kmeans as _kmeans  # noqa: F401
from locum.tasks import leave_one_out as _leave_one_out  # noqa: F401
from locum.tasks import local_baseline as _local_baseline  # noqa: F401
from locum.tasks import local_categories as _local_categories  # noqa: F401
from locum.tasks import meta_analysis as _meta_analysis  # noqa: F401
from locum.tasks import mixed as _mixed  # noqa: F401
from locum.tasks import mixed_logistic as _mixed_logistic  # noqa: F401
from locum.tasks import moments as _moments  # noqa: F401
from locum.tasks import multinomial as _multinomial  # noqa: F401
from locum.tasks import negative_binomial as _negative_binomial  # noqa: F401
from locum.tasks import network as _network  # noqa: F401
from locum.tasks import ordinal as _ordinal  # noqa: F401
from locum.tasks import pca as _pca  # noqa: F401
from locum.tasks import piecewise as _piecewise  # noqa: F401
from locum.tasks import probe as _probe  # noqa: F401
from locum.tasks import quantiles as _quantiles  # noqa: F401
from locum.tasks import robust as _robust  # noqa: F401
from locum.tasks import sgd as _sgd  # noqa: F401
from locum.tasks import signal as _signal  # noqa: F401
from locum.tasks import subgroups as _subgroups  # noqa: F401
from locum.tasks import survival as _survival  # noqa: F401
from locum.tasks import treatment_effect as _treatment_effect  # noqa: F401
from locum.tasks.base import BaseTask, Memory, Params, State, Task, build, build_plan, kinds, private_kinds, register, register_private
from locum.tasks.private import check as _private_check  # noqa: F401
from locum.tasks.private import drift as _private_drift  # noqa: F401
from locum.tasks.private import evaluate as _private_evaluate  # noqa: F401
from locum.tasks.private import fedavg as _private_fedavg  # noqa: F401
from locum.tasks.private import glm as _private_glm  # noqa: F401
from locum.tasks.private import histogram as _private_histogram  # noqa: F401
from locum.tasks.private import impute as _private_impute  # noqa: F401
from locum.tasks.private import moments as _private_moments  # noqa: F401
from locum.tasks.private import pca as _private_pca  # noqa: F401
from locum.tasks.private import quantiles as _private_quantiles  # noqa: F401
from locum.tasks.private import robust as _private_robust  # noqa: F401
from locum.tasks.private import sgd as _private_sgd  # noqa: F401
from locum.tasks.private import signal as _private_signal  # noqa: F401
from locum.tasks.private import vocabulary as _private_vocabulary  # noqa: F401

__all__ = ["BaseTask", "Memory", "Params", "State", "Task", "build", "build_plan", "kinds", "private_kinds", "register", "register_private"]
