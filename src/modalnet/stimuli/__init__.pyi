from . import corrupt as corrupt
from .agreement import agreement as agreement
from .arithmetic import multiple_demand as multiple_demand
from .contrast import Contrast as Contrast
from .conversion import StimuliLike as StimuliLike, as_stimuli as as_stimuli
from .environment import environment as environment
from .huggingface import from_dataset as from_dataset
from .images import ImageLike as ImageLike
from .incentives import incentives as incentives
from .minimal_pairs import minimal_pairs as minimal_pairs
from .nonwords import nonword as nonword
from .pictures import categories as categories, vision as vision
from .published import fedorenko2010 as fedorenko2010, floc as floc
from .readers import from_csv as from_csv, from_folder as from_folder
from .refusal import refusal as refusal
from .scene_questions import vision_vs_text as vision_vs_text
from .scramble import box_scramble as box_scramble, phase_scramble as phase_scramble
from .sentences import language as language, language_conditions as language_conditions
from .sound_scramble import phase_scramble_sound as phase_scramble_sound, quilt as quilt
from .sounds import AudioLike as AudioLike, Sound as Sound
from .speech import speech as speech, speech_conditions as speech_conditions
from .stimulus import Stimulus as Stimulus
from .stories import theory_of_mind as theory_of_mind, tom_saxe as tom_saxe
from .tones import tone_frequencies as tone_frequencies, tones as tones
from .word_pictures import word_pictures as word_pictures
