"""What a task needs around a model: rows, batches, what its outputs mean, scores and predictions."""

from .adaptor import TaskAdaptor
from .data import FORMATS, Corpus, DataReport, Finding, Lengths, Rows, Table, read
from .encoded import Encoded
from .glue import GLUE, glue_task
from .masked_lm import MaskedLM
from .multi_label import MultiLabelClassification
from .named import TASKS
from .question_answering import QuestionAnswering
from .ranking import PairwiseRanking
from .regression import TextRegression
from .sentence_embedding import SentenceEmbedding
from .streaming import CorpusLoader
from .task import Task
from .text_classification import TextClassification
from .token_classification import TokenClassification

__all__ = [
    "FORMATS",
    "GLUE",
    "TASKS",
    "Corpus",
    "CorpusLoader",
    "DataReport",
    "Encoded",
    "Finding",
    "Lengths",
    "MaskedLM",
    "MultiLabelClassification",
    "PairwiseRanking",
    "QuestionAnswering",
    "Rows",
    "SentenceEmbedding",
    "Table",
    "Task",
    "TaskAdaptor",
    "TextClassification",
    "TextRegression",
    "TokenClassification",
    "glue_task",
    "read",
]
