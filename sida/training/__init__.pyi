from sida.config.recipe import TeacherConfig as TeacherConfig
from sida.training.averages import ema_beta as ema_beta
from sida.training.logs import IterationRecord as IterationRecord
from sida.training.schedule import Phase as Phase
from sida.training.schedule import Schedule as Schedule
from sida.training.teacher import train_teacher as train_teacher
